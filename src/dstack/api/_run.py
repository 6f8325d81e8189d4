"""One run, and what can be done with it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dstack.api import _ports
from dstack.api._context import Context
from dstack.api._keys import Identity, identity
from dstack.api._run_readings import RunReadings
from dstack.errors import (
    AgentRefused,
    ClientError,
    ServerClientError,
    SSHError,
)
from dstack.protocol import routes
from dstack.protocol.requests import GrantAccess, StopRun
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.protocol.views import AccessView, JobView, RunView
from dstack.spec.ports import PortMapping

if TYPE_CHECKING:
    from dstack.api._attach import Wish


class Run(RunReadings):
    """One run. What it shows is as of the last `refresh`, `attach` or `logs`.

    Examples:
        >>> from dstack.api import Client, Task
        >>> run = Client.from_config().runs.submit(Task(commands=["echo hello"]), run_name="first")
        >>> run.name, run.ports, run.exit_code
        ('first', None, None)
        >>> b"".join(run.logs())
        b'hello\\n'
        >>> run.refresh()
        >>> run.status.value, run.exit_code, run.backend.value, run.hostname
        ('done', 0, 'local', '127.0.0.1')
    """

    def __init__(self, context: Context, view: RunView, reserved: _ports.Reservation | None = None) -> None:
        super().__init__(context, view)
        self._reserved = reserved

    def refresh(self) -> None:
        """Fetch what the server knows now.

        Raises:
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["true"]))
            >>> run.refresh()
        """
        self._fetch()

    def changes(self) -> Iterator["Run"]:
        """Yield this run now and after each change, until it has ended. Waits on the server's events, never polls.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["true"]))
            >>> [one.status.value for one in run.changes()][-1]
            'done'
        """
        yield self
        if self.status.is_finished():
            return
        for event in self._context.news(self.id, self._view.cursor):
            if event is None or event.seq > self._view.cursor:
                self._fetch()
                yield self
                if self.status.is_finished():
                    return

    def attach(
        self,
        ssh_identity_file: str | os.PathLike[str] | None = None,
        bind_address: str | None = None,
        ports_overrides: Sequence[PortMapping | str] | None = None,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> bool:
        """Wait until the job runs, then open an SSH tunnel, forward its ports and make `ssh <run>` work.

        Args:
            ssh_identity_file: an ed25519 private key; the client's own without it.
            bind_address: where to listen for the forwarded ports; `localhost` without it.
            ports_overrides: other local ports, such as `["8001:80"]`.
            replica_num, job_num: which replica, and which node of it.

        Returns:
            True with `ports` filled while the job runs. Else whether the run went well, or the attempt that was over
            before the tunnel was open; `attach` may then be called for the next one.

        Raises:
            ResourceNotExistsError: the run has no such job.
            PortUsedError: a local port cannot be used; says why.
            SSHError: the tunnel could not be opened; says why.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 60"], ports=["*:8000"]))
            >>> run.attach()
            True
            >>> sorted(run.ports)
            [8000]
            >>> run.stop(abort=True)
        """
        if self._attachment is not None:
            return True
        from dstack.api import _connection

        key = identity(ssh_identity_file or self._context.ssh_identity_file)
        known = self._attempts_ended(replica_num, job_num)
        missed: JobStatus | None = None
        for _ in self.changes():
            job = self._wanted_job(replica_num, job_num)
            if job is not None and job.status is JobStatus.RUNNING:
                if self._open(self._wish(job, key, bind_address, ports_overrides), replica_num, job_num):
                    return True
            elif not self.status.is_finished():
                _connection.preload()
            if (missed := self._own_end(replica_num, job_num, after=known)) is not None:
                break
        self._release()
        return self.status is RunStatus.DONE if missed is None else missed is JobStatus.DONE

    def exec(
        self,
        command: Sequence[str],
        *,
        has_terminal: bool = False,
        ssh_identity_file: str | os.PathLike[str] | None = None,
        replica_num: int = 0,
        job_num: int = 0,
    ) -> int:
        """Run a command inside a running job, with this process's standard input, output and error output.

        It needs no `attach`. In the main thread, SIGINT and SIGTERM go to the command, and a second SIGINT leaves it.

        Args:
            command: the program and its arguments, which arrive just so; `["sh", "-c", "…"]` for a shell's line.
            has_terminal: whether the command gets a terminal: this process's own, where it has one.
            ssh_identity_file, replica_num, job_num: as for `attach`.

        Returns:
            The command's exit code: 127 where there is no such program, 128 + n after signal n.

        Raises:
            ResourceNotExistsError, ClientError: there is no such job, or it does not run.
            SSHError: there is no connection to it; says why.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 60"]))
            >>> run.attach()
            True
            >>> run.exec(["sh", "-c", "exit 3"])
            3
            >>> run.stop(abort=True)
        """
        from dstack.api import _connection, _exec

        _connection.preload()
        key = identity(ssh_identity_file or self._context.ssh_identity_file)
        self._fetch()
        job = self._wanted_job(replica_num, job_num)
        if job is None or job.status is not JobStatus.RUNNING:
            state, is_ending = (job.status, job.reason) if job else (self.status, self.reason)
            hint = None if is_ending else f"`dstack attach {self.name}` waits until it runs"
            raise ClientError(f"The job of `{self.name}` is {state}: no command can be run in it", hint=hint)
        access = self._grant(key, replica_num, job_num)
        _connection.check_way(access, same_machine=self._context.same_machine)
        return _exec.execute(access, key, shlex.join(command), _exec.Ends(), has_terminal=has_terminal)

    def detach(self) -> None:
        """Close the tunnel and undo what `attach` did; harmless where nothing is attached.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 60"]))
            >>> run.attach()
            True
            >>> run.detach()
            >>> run.stop(abort=True)
        """
        self._release()
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.close()

    def stop(self, abort: bool = False) -> None:
        """End the run, and detach.

        Args:
            abort: end it at once, without the time to clean up that SIGTERM gives.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 60"]))
            >>> run.stop()
            >>> [one.status.value for one in run.changes()][-1]
            'terminated'
        """
        self._view = self._context.transport.call(
            routes.STOP_RUN, StopRun(abort=abort), project=self._context.project, run=self.id
        )
        self.detach()

    def _grant(self, key: Identity, replica: int, node: int) -> AccessView:
        """Have the job's machine let the key in."""
        body = GrantAccess(public_key=key.public_key, replica=replica, node=node)
        access: AccessView = self._context.transport.call(
            routes.GRANT_ACCESS, body, project=self._context.project, run=self.id
        )
        return access

    def _runs_again(self, replica: int, node: int) -> bool:
        """Wait until the job runs, perhaps in another attempt; False where the run has ended before."""
        here = Run(self._context, self._view)  # this one may be followed in another thread
        here._fetch()
        for _ in here.changes():
            job = here._job(replica, node)
            if job is not None and job.status is JobStatus.RUNNING:
                return True
        return False

    def _wish(
        self,
        job: JobView,
        key: Identity,
        bind_address: str | None,
        ports_overrides: Sequence[PortMapping | str] | None,
    ) -> "Wish":
        from dstack.api import _ssh_config
        from dstack.api._attach import Wish

        replica, node = job.replica, job.node
        return Wish(
            key=f"{self.id}-{replica}-{node}",
            host_name=_ssh_config.host_name(self.name, replica, node),
            wanted=job.ports | _ports.overrides(ports_overrides),
            bind_address=bind_address,
            is_explicit=bool(bind_address or ports_overrides),
            same_machine=self._context.same_machine,
            reserved=self._reserved,
            identity=key,
            grant=lambda: self._grant(key, replica, node),
            await_job=lambda: self._runs_again(replica, node),
        )

    def _open(self, wish: "Wish", replica: int, node: int) -> bool:
        """Whether the way in is open; False where the job ended before it was.

        The host knows of the end a moment before the server does, so who is refused while the job seems to run asks
        once more.
        """
        from dstack.api._attach import open_attachment

        for is_last in (False, True):
            try:
                self._attachment = open_attachment(wish)
                return True
            except (ServerClientError, AgentRefused, SSHError):
                self._fetch()
                job = self._job(replica, node)
                if job is None or job.status is not JobStatus.RUNNING:
                    return False
                if is_last:
                    raise
        return False

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.release()
            self._reserved = None
