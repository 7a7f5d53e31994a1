"""The only network: which account is asked (`client`), where it lives (`origin`, `route`), how a call travels.

`client` is cheap to import and holds the account; it makes the SDK's client for the control plane on demand.
`transport` is the data plane: bytes out, one `Reply` back, each call exactly one HTTP request.
"""
