"""The SSH server. The user name is a job's id; who may come in is in that job's folder, which is read anew each time.

Whoever is in has what the job has: its shell, its files, its loopback, and nothing of the host's.
"""

import asyncio
import json
import logging
import sys
from asyncio import StreamReader
from collections.abc import Coroutine
from typing import Any

import asyncssh
from asyncssh import ChannelOpenError, SSHKey, SSHServer, SSHServerChannel, SSHServerConnection

from dstack.agent.admission import keys_of
from dstack.agent.connecting import LOOPBACKS, bind_private
from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.paths import Home, JobFolder, channels_path, read_json, write_json
from dstack.agent.sshd.channels import Channels
from dstack.agent.sshd.corked import cork
from dstack.agent.sshd.envoys import Envoys
from dstack.agent.sshd.forwards import Listener, session_to
from dstack.agent.sshd.inside import Inside, inside_of
from dstack.agent.sshd.programs import settled
from dstack.agent.sshd.sessions import Session
from dstack.errors import AgentRefused

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LOOPBACK = frozenset((*LOOPBACKS, "localhost"))
LOGIN_TIMEOUT_S = 20
KEEPALIVE_S = 15

BIND_TRIES = 10
BIND_RETRY_S = 0.1
"""An SSH server of an agent that was killed may take a moment to go."""

KEX_ALGS = ("curve25519-sha256", "curve25519-sha256@libssh.org")
ENCRYPTION_ALGS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
MAC_ALGS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
KEY_TYPE = "ssh-ed25519"

GUESTS_MAX = 200
"""Connections that have logged in; while there are so many, new ones are closed before they have said a word."""
STRANGERS_MAX = 64
"""Connections that have not logged in yet; where there are more, the oldest of them is closed."""
BACKLOG = 512

Offered = Coroutine[Any, Any, Any]
"""Of what asyncssh has no names for: a session or a listener that is still being made."""


class Doors:
    """Who is in, and the inside of each job."""

    def __init__(self, home: Home, envoys: Envoys) -> None:
        self.home = home
        self.envoys = envoys
        self._engine = ContainerEngine()
        self._guests: dict[str, set[SSHServerConnection]] = {}
        self._insides: dict[str, Inside] = {}
        self._strangers: dict[SSHServerConnection, None] = {}
        """Who has not logged in yet, in the order in which they came."""

    def open_inside(self, folder: JobFolder) -> Inside | None:
        """Return the inside of a job; None where it does not run.

        Raises:
            OSError: its order is lost.
        """
        return self.inside(folder) if _is_open(folder) else None

    def inside(self, folder: JobFolder) -> Inside:
        """The inside of a job."""
        known = self._insides.get(folder.job_id)
        if known is None:
            known = self._insides[folder.job_id] = inside_of(folder, self._engine, self.envoys)
        return known

    def knocked(self, conn: SSHServerConnection) -> bool:
        """Take in somebody who has not logged in yet; the oldest such connection makes room. False where guests fill
        the house."""
        if sum(map(len, self._guests.values())) >= GUESTS_MAX:
            conn.abort()
            return False
        self._strangers[conn] = None
        if len(self._strangers) > STRANGERS_MAX:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
        return True

    def came(self, folder: JobFolder, conn: SSHServerConnection) -> None:
        """Somebody is in."""
        self._strangers.pop(conn, None)
        folder.entered.touch(mode=0o600)
        self._guests.setdefault(folder.job_id, set()).add(conn)
        self._say(folder.job_id)

    def left(self, folder: JobFolder | None, conn: SSHServerConnection) -> None:
        """Somebody is out, or gave up before."""
        self._strangers.pop(conn, None)
        if folder is None:
            return
        guests = self._guests.get(folder.job_id)
        if guests is not None and conn in guests:
            guests.discard(conn)
            self._say(folder.job_id)

    def shut(self, job_id: str) -> None:
        """The job has ended: all of its guests are out."""
        self._insides.pop(job_id, None)
        for conn in self._guests.pop(job_id, set()):
            conn.disconnect(asyncssh.DISC_BY_APPLICATION, "the job has ended")

    def shut_all(self) -> None:
        """Nobody stays."""
        for job_id in list(self._guests):
            self.shut(job_id)

    def _say(self, job_id: str) -> None:
        """Tell the agent how many are in."""
        _say({"job_id": job_id, "guests": len(self._guests.get(job_id, ()))})


class WayIn(SSHServer):
    """One connection of one user, who comes for one job."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._folder: JobFolder | None = None
        self._conn: SSHServerConnection | None = None
        self._has_explained = False

    def connection_made(self, conn: SSHServerConnection) -> None:
        """Somebody knocks."""
        self._conn = conn
        if self._doors.knocked(conn):
            cork(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        """The user has left."""
        if self._conn is not None:
            self._doors.left(self._folder, self._conn)

    def begin_auth(self, username: str) -> bool:
        """Nobody comes in without a key."""
        try:
            self._folder = self._doors.home.job(username)
        except AgentRefused:
            self._folder = None
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way to log in."""
        return True

    def validate_public_key(self, username: str, key: SSHKey) -> bool:
        """Whether the key is among those of the job, and the job has not ended."""
        if self._folder is None or not _is_open(self._folder):
            self._explain("there is no such job, or it has ended")
            return False
        offered = key.export_public_key().decode().split()[:2]
        is_known = any(line.split()[:2] == offered for line in keys_of(self._folder))
        if not is_known:
            self._explain("this key is not authorized for the job; run `dstack attach RUN` to authorize yours")
        return is_known

    def _explain(self, refusal: str) -> None:
        """Say it once: a client may offer many keys, the right one among them."""
        if self._conn is not None and not self._has_explained:
            self._has_explained = True
            self._conn.send_auth_banner(f"dstack: {refusal}\r\n")

    def auth_completed(self) -> None:
        """The user is in."""
        assert self._folder is not None and self._conn is not None
        self._doors.came(self._folder, self._conn)

    def session_requested(self) -> "tuple[SSHServerChannel[bytes], Session]":
        """A shell, a command or a file transfer inside the job.

        Raises:
            ChannelOpenError: the job has ended.
        """
        assert self._conn is not None
        return self._conn.create_server_channel(encoding=None), Session(self._inside())

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Offered:
        """To a port of the job's own loopback.

        Raises:
            ChannelOpenError: to anywhere else, or the job has ended.
        """
        if dest_host not in LOOPBACK:
            raise ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"only ports of 127.0.0.1 are forwarded, not of {dest_host}"
            )
        return _forward(self._inside().connect(dest_host, dest_port))

    def unix_connection_requested(self, dest_path: str) -> Offered:
        """To a unix socket among the job's files.

        Raises:
            ChannelOpenError: the job has ended.
        """
        return _forward(self._inside().connect_unix(dest_path))

    def server_requested(self, listen_host: str, listen_port: int) -> Offered:
        """From a port of the job's own loopback, whatever address is named.

        Raises:
            ChannelOpenError: the job has ended.
        """
        assert self._conn is not None
        return _listen_for(self._conn, self._inside(), listen_host, listen_port)

    def _inside(self) -> Inside:
        try:
            inside = None if self._folder is None else self._doors.open_inside(self._folder)
        except OSError as error:
            raise ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(error)) from error
        if inside is None:
            raise ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "the job has ended")
        return inside


async def _forward(connecting: Coroutine[Any, Any, Any]) -> Any:  # asyncssh's session
    try:
        return await session_to(await connecting)
    except (OSError, EngineAway, EngineRefused) as error:
        raise ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, str(error)) from None


async def _listen_for(conn: SSHServerConnection, inside: Inside, host: str, port: int) -> Listener | None:
    try:
        listening = await inside.listen(port)
        if conn.is_closed():  # asyncssh closes only the listeners that it knew at that moment
            listening.close()
            return None
        return Listener(conn, listening, host)
    except (OSError, EngineAway, EngineRefused) as error:
        conn.logger.info("No listener at port %d: %s", port, error)
        return None


def run(home: Home, envoys: Envoys) -> None:
    """Serve until the input ends."""
    asyncssh.set_log_level("WARNING")
    asyncio.run(_serve(Doors(home, envoys)))


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _serve(doors: Doors) -> None:
    home = doors.home
    channels = Channels(home, doors.open_inside)
    serving = asyncio.create_task(channels.serve(bind_private(channels_path(home.root))), name="serves channels")
    port, key = read_json(home.ssh, _way_in_of) or (0, asyncssh.generate_private_key(KEY_TYPE))
    acceptor = await _listen(doors, key, port)
    if acceptor.get_port() != port:
        private_key = key.export_private_key("openssh").decode()
        write_json(home.ssh, {"port": acceptor.get_port(), "private_key": private_key}, durable=True)
    host_key = " ".join(key.export_public_key().decode().split()[:2])
    _say({"port": acceptor.get_port(), "host_key": host_key})
    await _until_the_end(doors)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    acceptor.close()
    doors.shut_all()
    await settled()


def _way_in_of(body: dict[str, Any]) -> tuple[int, SSHKey]:
    """The port and the host key that were chosen once."""
    port, private_key = body["port"], body["private_key"]
    if type(port) is not int or not 0 < port < 1 << 16 or not isinstance(private_key, str):
        raise ValueError("no port and host key")
    return port, asyncssh.import_private_key(private_key)


async def _listen(doors: Doors, key: SSHKey, port: int) -> asyncssh.SSHAcceptor:
    """Listen at the port that was chosen once; at another where that is taken for good."""
    for attempt in range(BIND_TRIES):
        try:
            return await asyncssh.listen(
                HOST,
                port if attempt < BIND_TRIES - 1 else 0,
                server_factory=lambda: WayIn(doors),
                server_host_keys=[key],
                kex_algs=KEX_ALGS,
                encryption_algs=ENCRYPTION_ALGS,
                mac_algs=MAC_ALGS,
                signature_algs=(KEY_TYPE,),
                gss_host=None,
                agent_forwarding=True,
                allow_scp=False,
                line_editor=False,
                login_timeout=LOGIN_TIMEOUT_S,
                keepalive_interval=KEEPALIVE_S,
                reuse_address=True,
                backlog=BACKLOG,
            )
        except OSError:
            if attempt == BIND_TRIES - 1:
                raise
            await asyncio.sleep(BIND_RETRY_S)
    raise AssertionError("the last attempt returns or raises")


async def _until_the_end(doors: Doors) -> None:
    """Wait for the end of the agent, or of the process that forks envoys: the agent then starts both anew."""
    hearing = asyncio.create_task(_hear(doors), name="hears which jobs have ended")
    watching = asyncio.create_task(doors.envoys.gone(), name="watches the process that forks envoys")
    done, waiting = await asyncio.wait((hearing, watching), return_when=asyncio.FIRST_COMPLETED)
    if watching in done:
        log.error("The process that enters containers has ended; this SSH server ends too, and is restarted")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()


async def _hear(doors: Doors) -> None:
    """Hear which jobs have ended, until the agent, which says so, has ended itself."""
    reader = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        doors.shut(str(json.loads(line)["ended"]))


def _is_open(folder: JobFolder) -> bool:
    return folder.authorized_keys.exists() and not folder.end.exists()
