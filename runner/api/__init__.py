"""The only network: whom to ask (`account`), where that is (`origin`, `route`), and how a call travels.

`client` is cheap to import; it makes the SDK's client, the control plane, on demand.
`dataplane` chooses what carries the calls: `transport`, which keeps `connection`s in a `pool` and makes new
ones by `dialing`; or `sdk_transport` above it, where each call needs its own credential. Either way it is
bytes out, one `Reply` back, each call exactly one HTTP request.
"""
