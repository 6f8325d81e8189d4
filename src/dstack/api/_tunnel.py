"""An SSH connection to a job, in a thread with its own event loop, and the local ports that it forwards.

The listening sockets outlive the connection: a broken connection is opened again, and local clients wait until then.
Without sockets, the connection only detects that the job has moved.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dstack.api._bridges import Bridge, copy
from dstack.api._connection import cause, connect
from dstack.api._keys import Identity
from dstack.api._transport import FIRST_DELAY, LONGEST_DELAY
from dstack.errors import DstackError, ServerUnreachableError, SSHError
from dstack.kit.pauses import Pauses
from dstack.kit.tasks import apart
from dstack.protocol.views import AccessView

if TYPE_CHECKING:
    import asyncssh

logger = logging.getLogger("dstack.api")

RECONNECT_WAIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one job: its access, the key, and the local sockets with the ports they lead to."""

    grant: Callable[[], AccessView]
    identity: Identity
    sockets: Mapping[int, socket.socket]
    """Container port to listening socket."""
    direct: Collection[int]
    """The ports at which the job itself listens on this machine."""
    await_job: Callable[[], bool]
    """Waits until the job runs, in this or a later attempt; returns False if it will not run again."""
    moved: Callable[[AccessView], None]
    """Called with the job's new address after it has moved; must not take long."""


class Tunnel:
    """One SSH connection, opened again after each loss until it is closed."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._link: asyncssh.SSHClientConnection | None = None
        self._access: AccessView | None = None
        self._ports: Mapping[int, int] = {}
        """See `AccessView.ports`."""
        self._up = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dstack-tunnel", daemon=True)
        self._keeper: asyncio.Task[None] | None = None
        self._servers: list[asyncio.Server] = []
        self._bridges: list[asyncio.Task[None]] = []
        self._splices: set[asyncio.Task[None]] = set()
        self._thread.start()

    def open(self, access: AccessView) -> None:
        """Connect and serve the local ports; without ports, connect in the background.

        Raises:
            SSHError: the connection for the ports could not be opened.
        """
        try:
            self._do(self._open(access))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection and the sockets. Does nothing if they are closed already."""
        if self._thread.is_alive():
            self._do(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            for one in self._way.sockets.values():
                one.close()

    def _do(self, work: Coroutine[None, None, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result()
        finally:
            future.cancel()

    async def _open(self, access: AccessView) -> None:
        if self._way.sockets:
            self._link = await connect(access, self._way.identity)
            self._up.set()
        self._access, self._ports = access, access.ports
        self._servers = [
            await asyncio.start_server(self._splicer(port), sock=bound) for port, bound in self._way.sockets.items()
        ]
        self._keeper = asyncio.create_task(self._keep(), name="tunnel keeper")
        self._bridges = [
            asyncio.create_task(Bridge(port).keep(), name=f"bridge to port {port}") for port in self._way.direct
        ]

    async def _close(self) -> None:
        tasks = [*self._splices, *self._bridges, *([self._keeper] if self._keeper else [])]
        for server in self._servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            self._link.abort()
            await self._link.wait_closed()

    async def _keep(self) -> None:
        """Connect again after each loss of the connection, until the server reports that the job has ended.

        After a retry, the connection leads to the next attempt, perhaps on another machine.
        """
        pauses = Pauses(FIRST_DELAY, LONGEST_DELAY)
        while True:
            if self._link is not None:
                await self._link.wait_closed()
                self._up.clear()
                self._link = None
                logger.info("The SSH tunnel broke; connecting again")
            try:
                await self._connect_again()
                pauses.reset()
            except DstackError as error:
                logger.info("The SSH tunnel is down: %s", error.message)
                await asyncio.sleep(pauses.next().total_seconds())
                if not _may_pass(error) and not await self._job_comes_back():
                    return

    async def _connect_again(self) -> None:
        access = await asyncio.to_thread(self._way.grant)
        self._link = await connect(access, self._way.identity)
        self._ports = access.ports
        self._up.set()
        if access != self._access:
            try:
                self._way.moved(access)
                self._access = access
            except OSError as error:  # OpenSSH does not find the job, but the forwarded ports lead to it
                logger.warning("Where the job is now could not be written down: %s", error)

    async def _job_comes_back(self) -> bool:
        try:
            return await apart(self._way.await_job, "dstack-next-attempt")
        except DstackError as error:
            return _may_pass(error)

    def _splicer(
        self, container_port: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]:
        async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._splices.add(task)
            try:
                await self._splice(container_port, reader, writer)
            except asyncio.CancelledError:
                pass  # by `_close`; the caller in Python 3.11 would log it with a traceback
            finally:
                self._splices.discard(task)
                writer.close()

        return splice

    async def _splice(self, container_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncssh

        try:
            async with asyncio.timeout(RECONNECT_WAIT_S):
                await self._up.wait()
                assert self._link is not None
                far_reader, far_writer = await self._link.open_connection(
                    "localhost", self._ports.get(container_port, container_port)
                )
            try:
                await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
            finally:
                far_writer.close()
        except (OSError, asyncssh.Error, TimeoutError) as error:
            logger.info("A connection to port %d was closed: %s", container_port, cause(error))


def _may_pass(error: DstackError) -> bool:
    return error.retryable or isinstance(error, SSHError | ServerUnreachableError)
