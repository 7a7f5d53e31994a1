"""The life of a row, from a line of input to a line of output.

1. `ingest` reads a line, checks it, renders its request and stores it with the SHA-256 of what it asks.
2. `expand` makes the tasks that rows still need: a body that this series has asked before is not asked again.
3. `dispatch` claims ready tasks, commits that intent, and sends them, each attempt once.
4. `classify` says what came back: answered, refused, not sent, or ambiguous.
5. `settle` stores a paid body and makes its task final in one transaction, or gives it a later due time.
6. `export` draws the output from the stored bodies, in input order, and counts every line.

Any process may die between any two of these: the next start goes on from what the store says.
`engine` is the page to read first; `model` holds the words; `store` the only SQL; `api` the only network.
"""

__version__ = "0.1.0"
