"""Rate limits: token buckets, one for each caller and limit."""

from collections import OrderedDict

from dstack.protocol.proxy import Limit

CALLERS_MAX = 10_000
"""The bound of remembered callers of one limit. The one that has been silent for longest is forgotten first."""


class Bucket:
    """One limit, and the callers that it counts.

    Examples:
        >>> bucket = Bucket(Limit(prefix="/", rps=2, burst=1))
        >>> [bucket.wait_s(b"ada", at) for at in (0.0, 0.0, 0.0, 0.5)]
        [0.0, 0.0, 0.5, 0.0]
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.prefix = limit.prefix.encode()
        self.header = None if limit.header is None else limit.header.lower().encode()
        self._room = limit.burst + 1.0
        self._callers: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """The tokens that each had, and when."""

    def wait_s(self, caller: bytes, now_s: float) -> float:
        """Count a request; return 0 if it may go on, else the seconds after which one may.

        Args:
            now_s: elapsed seconds.
        """
        tokens, at_s = self._callers.pop(caller, (self._room, now_s))
        tokens = min(self._room, tokens + (now_s - at_s) * self.limit.rps)
        if tokens >= 1:
            self._callers[caller] = tokens - 1, now_s
            wait_s = 0.0
        else:
            self._callers[caller] = tokens, now_s
            wait_s = (1 - tokens) / self.limit.rps
        if len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)
        return wait_s
