"""The number of messages without use that an agent may send."""

import logging
from typing import Any

from dstack.protocol.agent import Malformed

log = logging.getLogger(__name__)

MESSAGES_MAX = 1000
"""Within a minute."""
BYTES_MAX = 32 << 20
"""Of their payloads, within a minute."""


class Allowance:
    """Counts the messages of one agent that are of no use: of unknown types, and ones that were not asked for.

    A newer agent sends some, and one whose log was followed a moment ago. One that sends many costs time for nothing.
    """

    def __init__(self) -> None:
        self._messages = 0
        self._bytes = 0

    def begin_minute(self) -> None:
        """Allow as many again."""
        self._messages = self._bytes = 0

    def spend(self, frame: dict[str, Any], payload: bytes) -> None:
        """Count one message.

        Raises:
            Malformed: there are too many.
        """
        if not self._messages:
            log.info("An agent sent a message `%.50s` of no use", frame.get("t"))
        self._messages += 1
        self._bytes += len(payload)
        if self._messages > MESSAGES_MAX or self._bytes > BYTES_MAX:
            raise Malformed(f"too many messages of no use, the last one a `{frame.get('t')!s:.50}`")
