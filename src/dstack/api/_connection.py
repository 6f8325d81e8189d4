"""An SSH connection to a job, with this user's key. Only the host key that the server names is accepted."""

import getpass
import os
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING

from dstack.api._keys import Identity
from dstack.errors import SSHError
from dstack.kit import systems
from dstack.protocol.views import AccessView

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT_S = 15.0
KEEPALIVE_S = 5
KEEPALIVES_MISSED_MAX = 3
LOCAL = ("127.0.0.1", "localhost", "::1")


def preload() -> None:
    """Import asyncssh in the background. The import takes longer than the start of many jobs.

    The thread is not a daemon: an interpreter that ends while it imports compiled code aborts.
    """
    if "asyncssh" in sys.modules:
        return
    threading.Thread(target=import_module, args=("asyncssh",), name="dstack-preload").start()


def check_way(access: AccessView, *, same_machine: bool) -> None:
    """Check that this machine can reach the job.

    Args:
        access: the job's address.
        same_machine: whether the server is on this machine.

    Raises:
        SSHError: the job runs on the server's machine, which is another one.
    """
    if access.hostname in LOCAL and not same_machine:
        raise SSHError(
            "The run is on the server's own machine, into which there is no way from here",
            hint="Attach on that machine; `logs` works from here",
        )


async def connect(access: AccessView, identity: Identity) -> "asyncssh.SSHClientConnection":
    """Connect to the SSH server of a job.

    Raises:
        SSHError: the connection could not be opened. Contains the reason.
    """
    import asyncssh

    _name_this_user()
    try:
        host_key = asyncssh.import_public_key(access.host_key)
        return await asyncssh.connect(
            access.hostname,
            access.ssh_port,
            username=access.ssh_user,
            client_keys=[str(identity.path)],
            known_hosts=([host_key], [], []),
            server_host_key_algs=["ssh-ed25519"],
            signature_algs=["ssh-ed25519"],
            agent_path=None,
            config=None,
            password_auth=False,
            kbdint_auth=False,
            connect_timeout=CONNECT_TIMEOUT_S,
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES_MISSED_MAX,
        )
    except (OSError, asyncssh.Error, asyncssh.KeyImportError, TimeoutError) as error:
        raise SSHError(
            f"The SSH connection to `{access.hostname}:{access.ssh_port}` could not be opened: {cause(error)}",
            hint="The job itself goes on; it may be tried again",
        ) from error


def _name_this_user() -> None:
    """Set `LOGNAME` for a user that is missing in the system's list: asyncssh requires a user name."""
    try:
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["LOGNAME"] = systems.user_id()


def cause(error: Exception) -> str:
    """Return an error's message, or its type if it has none."""
    return str(error) or type(error).__name__
