"""HTTP: decode, call an operation, encode; nothing else. The endpoints are listed in `dstack.protocol.routes`."""
