"""The only network: whom to ask (`account`), where that is (`origin`, `route`), and how a call travels.

`client` is cheap to import; it makes the SDK's client, the control plane, on demand.
`transport` is the data plane: bytes out, one `Reply` back, each call exactly one HTTP request.
"""
