"""Bridges for jobs on this machine that listen at `::1` only: `127.0.0.1` leads to the same port."""

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
"""The kernel's code for a listening socket."""
_LOOPBACK_4, _ANY_4 = "0100007F", "0" * 8
_LOOPBACK_6, _ANY_6 = "0" * 24 + "01000000", "0" * 32


class Bridge:
    """A bridge for one port, open while the job listens at `::1` only."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._splices: set[asyncio.Task[None]] = set()

    async def keep(self) -> None:
        """Open and close the bridge as needed, until cancelled. Waits once: a server may listen at both soon."""
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
        with suppress(PortUsedError):  # by default `::` also accepts connections to 127.0.0.1
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
    """Whether a server on this machine listens at `::1` and not at `127.0.0.1`.

    Args:
        port: the port.
        is_bridged: whether the listener at `127.0.0.1` is the bridge.
    """
    if not {_LOOPBACK_6, _ANY_6} & _listening("tcp6", port):
        return False
    return is_bridged or not {_LOOPBACK_4, _ANY_4} & _listening("tcp", port)


def _listening(table: str, port: int) -> set[str]:
    """Return the addresses at which a process listens at the port, in the kernel's form; none without the table."""
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
    """Copy bytes until the end, and pass the end on."""
    while chunk := await reader.read(COPY_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
