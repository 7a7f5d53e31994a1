"""The only SQL: what is known, and every change of it as a named verb.

`database` opens a store and gives transactions; `writer` groups the commits of a running dispatch; the nouns
(`series`, `runs`, `rows`, `tasks`, `answers`, `artifacts`, `totals`) hold the verbs, which act only from the legal
state.
"""
