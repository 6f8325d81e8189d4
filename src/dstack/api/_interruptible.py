"""Answers for whom Ctrl-C counts at once, also on a system that does not end the wait for bytes of a connection."""

import http.client
import io
import math
import select
import socket
import time
from typing import Any

STEP_S = 0.25
"""How long Ctrl-C waits."""


class Response(http.client.HTTPResponse):
    """An answer that is waited for in steps."""

    def __init__(self, sock: socket.socket, *args: Any, **rest: Any) -> None:
        super().__init__(sock, *args, **rest)
        self.fp = io.BufferedReader(_Steps(sock, self.fp.detach()))


class _Steps(io.RawIOBase):
    """The bytes of a connection."""

    def __init__(self, sock: socket.socket, source: io.RawIOBase) -> None:
        self._sock = sock
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has come, once something has."""
        silence_s = self._sock.gettimeout()
        deadline = math.inf if silence_s is None else time.monotonic() + silence_s
        while not _has_some(self._sock):
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")
        return self._source.readinto(buffer)

    def close(self) -> None:
        """Close the source too."""
        self._source.close()
        super().close()


def _has_some(sock: socket.socket) -> bool:
    """Wait one step for bytes; those that TLS has opened already count."""
    pending = getattr(sock, "pending", None)
    return bool((pending and pending()) or select.select([sock], [], [], STEP_S)[0])
