"""Log bytes of one agent that wait to be stored.

Where the store is slow, more is stored at once, and reports go on.
"""

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

from dstack.protocol.agent import LOG_STREAMS, LOG_TIME_EXACT_S, LogBytes, LogGap

PRINTED_BYTES_MAX = 16 << 20
"""With more log bytes waiting or being stored, nothing is read from the agent."""
PIECE_BYTES = 512
"""The size of a piece or a gap besides its bytes: without it, many small ones would cost nothing."""

Stream: TypeAlias = tuple[str, str]
"""A job's id, and the name of its stream."""


@dataclass(slots=True)
class Printed:
    """Bytes of a log stream that came one after the other at almost the same time."""

    offset: int
    at: float
    pieces: list[bytes]
    end: int

    def takes(self, offset: int, at: float) -> bool:
        """Whether more can be stored together with these; the log store has one time for both."""
        return offset == self.end and 0 <= at - self.at < LOG_TIME_EXACT_S


Waiting: TypeAlias = dict[Stream, list[Printed | LogGap]]


class PrintedLogs:
    """Parts of the log streams that one agent was asked for."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self._has_room = asyncio.Event()
        self._followed: set[Stream] = set()
        self._waiting: Waiting = {}
        self._waiting_bytes = 0
        self._storing_bytes = 0
        self._is_given_up = False
        self.clear()

    @property
    def bytes_held(self) -> int:
        """The bytes that wait or are being stored."""
        return self._waiting_bytes + self._storing_bytes

    def clear(self) -> None:
        """Hold nothing and follow nothing, as before a connection."""
        self._followed.clear()
        self._waiting = {}
        self._waiting_bytes = self._storing_bytes = 0
        self._is_given_up = False
        self._has_room.set()

    def follow(self, of: Stream) -> None:
        """Take bytes of a stream from now on."""
        self._followed.add(of)

    def leave(self, job_id: str) -> None:
        """Take no more bytes of a job."""
        self._followed.difference_update((job_id, stream) for stream in LOG_STREAMS)

    def take_in(self, part: LogBytes | LogGap, data: bytes) -> bool:
        """Hold a part of a stream. Returns whether it was asked for."""
        of = part.job_id, part.stream
        if of not in self._followed:
            return self._is_given_up
        waiting = self._waiting.setdefault(of, [])
        match waiting[-1:], part:
            case _, LogGap():
                waiting.append(part)
            case [Printed() as last], _ if last.takes(part.offset, part.at):
                last.pieces.append(data)
                last.end += len(data)
            case _:
                waiting.append(Printed(part.offset, part.at, [data], part.offset + len(data)))
        self._waiting_bytes += len(data) + PIECE_BYTES
        self._judge_room()
        self.came.set()
        return True

    async def room(self) -> None:
        """Wait until more can be taken in."""
        await self._has_room.wait()

    def take_out(self) -> Waiting:
        """Return what waits, to be stored; it counts until `stored`."""
        taken, self._waiting = self._waiting, {}
        self._storing_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        return taken

    def stored(self) -> None:
        """Make room of all that was taken out: it is stored."""
        self._storing_bytes = 0
        self._judge_room()

    def give_up(self) -> None:
        """Hold nothing more: nothing will be stored any more on this connection."""
        self.clear()
        self._is_given_up = True

    def _judge_room(self) -> None:
        if self.bytes_held > PRINTED_BYTES_MAX:
            self._has_room.clear()
        else:
            self._has_room.set()
