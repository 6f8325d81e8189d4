"""The SSH server. The user name is a job's id; who may come in is in that job's folder, which is read anew each time.

For now it forwards connections to this host's loopback, and nothing else.
"""

import asyncio
import json
import os
import sys
from asyncio import Event

import asyncssh
from asyncssh import ChannelOpenError, SSHKey, SSHServer

from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.errors import AgentRefused

HOST = "127.0.0.1"
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
LOGIN_TIMEOUT_S = 20
KEEPALIVE_S = 15

BIND_TRIES = 10
BIND_RETRY_S = 0.1
"""An SSH server of an agent that was killed may take a moment to go."""

KEX_ALGS = ("curve25519-sha256", "curve25519-sha256@libssh.org")
ENCRYPTION_ALGS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
MAC_ALGS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
KEY_TYPE = "ssh-ed25519"


class WayIn(SSHServer):
    """One connection of one user, who comes for one job."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder: JobFolder | None = None

    def begin_auth(self, username: str) -> bool:
        """Nobody comes in without a key."""
        try:
            self._folder = self._home.job(username)
        except AgentRefused:
            self._folder = None
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way to log in."""
        return True

    def validate_public_key(self, username: str, key: SSHKey) -> bool:
        """Whether the key is among those of the job, and the job has not ended."""
        if self._folder is None or not _is_open(self._folder):
            return False
        offered = key.export_public_key().decode().split()[:2]
        return any(line.split()[:2] == offered for line in self._folder.authorized_keys.read_text().splitlines())

    def session_requested(self) -> bool:
        """No shells and no file transfer.

        Raises:
            ChannelOpenError: always.
        """
        raise ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "this way in offers port forwarding only (use `ssh -N`)"
        )

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """Lets through to the loopback of this host, as long as the job lives.

        Raises:
            ChannelOpenError: to anywhere else.
        """
        if dest_host not in LOOPBACK:
            raise ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, f"only ports of 127.0.0.1 are forwarded, not of {dest_host}"
            )
        if self._folder is None or not _is_open(self._folder):
            raise ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "the job has ended")
        return True


def run(home: Home) -> None:
    """Serve until the input ends."""
    asyncssh.set_log_level("WARNING")
    asyncio.run(_serve(home))


async def _serve(home: Home) -> None:
    known = read_json(home.ssh) or {}
    key = asyncssh.import_private_key(known["private_key"]) if known else asyncssh.generate_private_key(KEY_TYPE)
    acceptor = await _listen(home, key, int(known.get("port", 0)))
    if acceptor.get_port() != known.get("port"):
        private_key = key.export_private_key("openssh").decode()
        write_json(home.ssh, {"port": acceptor.get_port(), "private_key": private_key}, durable=True)
    host_key = " ".join(key.export_public_key().decode().split()[:2])
    sys.stdout.write(json.dumps({"port": acceptor.get_port(), "host_key": host_key}) + "\n")
    sys.stdout.flush()
    await _end_of_input()
    acceptor.close()


async def _listen(home: Home, key: SSHKey, port: int) -> asyncssh.SSHAcceptor:
    """Listen at the port that was chosen once; at another where that is taken for good."""
    for attempt in range(BIND_TRIES):
        try:
            return await asyncssh.listen(
                HOST,
                port if attempt < BIND_TRIES - 1 else 0,
                server_factory=lambda: WayIn(home),
                server_host_keys=[key],
                kex_algs=KEX_ALGS,
                encryption_algs=ENCRYPTION_ALGS,
                mac_algs=MAC_ALGS,
                signature_algs=(KEY_TYPE,),
                gss_host=None,
                agent_forwarding=False,
                allow_pty=False,
                login_timeout=LOGIN_TIMEOUT_S,
                keepalive_interval=KEEPALIVE_S,
                reuse_address=True,
            )
        except OSError:
            if attempt == BIND_TRIES - 1:
                raise
            await asyncio.sleep(BIND_RETRY_S)
    raise AssertionError("the last attempt returns or raises")


async def _end_of_input() -> None:
    """Wait until the agent, which holds the other end, has ended."""
    ended = Event()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        if not os.read(descriptor, 1024):
            ended.set()

    asyncio.get_running_loop().add_reader(descriptor, read)
    await ended.wait()


def _is_open(folder: JobFolder) -> bool:
    return folder.authorized_keys.exists() and not folder.end.exists()
