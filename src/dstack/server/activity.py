"""The open requests and the time without any: an embedded server ends when no client needs it."""

from time import monotonic

from starlette.types import ASGIApp, Receive, Scope, Send


class Activity:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = 0
        self._last = monotonic()

    def idle_s(self) -> float:
        """Return for how many seconds no request has come; 0 while a request or a stream is open."""
        return 0.0 if self._open else monotonic() - self._last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and count it while it is open."""
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._last = monotonic()
