"""Tests of the data plane's HTTP: bytes in, bytes out, through transports without sockets."""
