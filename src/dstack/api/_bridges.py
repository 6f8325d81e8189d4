"""Ports at which a job listens itself on this machine: where it does so at `::1` alone, `127.0.0.1` leads there too."""

import asyncio
import logging
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dstack.api import _ports
from dstack.errors import PortUsedError

if TYPE_CHECKING:
    import asyncssh

logger = logging.getLogger("dstack.api")

LOOK_EVERY_S = 0.5
COPY_BYTES = 64 << 10
LISTENS = "0A"
"""How the kernel's tables write it."""
_LOOPBACK_4, _ANY_4 = "0100007F", "0" * 8
_LOOPBACK_6, _ANY_6 = "0" * 24 + "01000000", "0" * 32


class Bridge:
    """One port that is bridged while it has to be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._splices: set[asyncio.Task[None]] = set()

    async def keep(self) -> None:
        """Look again and again, until cancelled; a server that listens at both has a moment to do so."""
        was_alone = False
        try:
            while True:
                is_alone = await asyncio.to_thread(listens_at_6_alone, self._port, is_bridged=self._server is not None)
                if is_alone and was_alone and self._server is None:
                    await self._open()
                elif not is_alone and self._server is not None:
                    self._close()
                was_alone = is_alone
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._close()
            for task in self._splices:
                task.cancel()
            await asyncio.gather(*self._splices, return_exceptions=True)

    async def _open(self) -> None:
        with suppress(PortUsedError):  # `::` takes what comes for 127.0.0.1 too, where it was not told otherwise
            bound = _ports.bind_alone(_ports.LOOPBACK, self._port)
            self._server = await asyncio.start_server(self._splice, sock=bound)
            logger.info("Port %d of the job listens at ::1 alone; 127.0.0.1 leads there", self._port)

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _splice(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._splices.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(_ports.LOOPBACK_6, self._port)
            try:
                await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
            finally:
                far_writer.close()
        except OSError as error:
            logger.info("A connection to port %d was closed: %s", self._port, error)
        finally:
            self._splices.discard(task)
            writer.close()


def listens_at_6_alone(port: int, *, is_bridged: bool = False) -> bool:
    """Whether a server of this machine is reached at `::1` and, as far as its addresses tell, not at `127.0.0.1`.

    Args:
        is_bridged: whether the listener at `127.0.0.1` is our own.
    """
    if not {_LOOPBACK_6, _ANY_6} & _listening("tcp6", port):
        return False
    return is_bridged or not {_LOOPBACK_4, _ANY_4} & _listening("tcp", port)


def _listening(table: str, port: int) -> set[str]:
    """The addresses at which the port is listened at, as the kernel writes them; none where there is no such table."""
    ending, found = f":{port:04X}", set()
    with suppress(OSError), Path(f"/proc/net/{table}").open() as lines:
        for line in lines:
            words = line.split(maxsplit=4)
            if len(words) > 3 and words[3] == LISTENS and words[1].endswith(ending):
                found.add(words[1].removesuffix(ending))
    return found


async def copy(
    reader: "asyncio.StreamReader | asyncssh.SSHReader[bytes]",
    writer: "asyncio.StreamWriter | asyncssh.SSHWriter[bytes]",
) -> None:
    """Carry bytes until there are no more, and say so."""
    while chunk := await reader.read(COPY_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
