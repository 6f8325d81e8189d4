"""One run, and the operations on it."""

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
from dstack.protocol.statuses import JobStatus, RunStatus
from dstack.protocol.views import AccessView, JobView, RunView
from dstack.spec.ports import PortMapping

if TYPE_CHECKING:
    from dstack.api._attach import Wish


class Run(RunReadings):
    """One run. Its properties are as of the last `refresh`, `attach` or `logs`.

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
        """Fetch the run's current state from the server.

        Raises:
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["true"]))
            >>> run.refresh()
        """
        self._fetch()

    def changes(self) -> Iterator["Run"]:
        """Yield this run now and after each change, until it has ended. Waits for the server's events and never polls.

        Raises:
            ResourceNotExistsError: the run was deleted.
            ServerUnreachableError: the server did not answer for five minutes.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["true"]))
            >>> [one.status.value for one in run.changes()][-1]
            'done'
        """
        yield self
        seen = self._view  # another thread may fetch a later one at any time, and no event comes after the last
        if seen.status.is_finished():
            return
        for event in self._context.news(self.id, seen.cursor):
            if isinstance(event, RunView):
                if is_new := event.cursor >= self._view.cursor and event != self._view:
                    self._view = event
            elif is_new := event is None or event.seq > self._view.cursor:
                self._fetch()
            if is_new:
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
            ssh_identity_file: an ed25519 private key; by default the client's own key.
            bind_address: the local address of the forwarded ports; by default `localhost`.
            ports_overrides: local ports that replace those of the configuration, such as `["8001:80"]`.
            replica_num: the number of the replica, from 0.
            job_num: the number of the node in that replica, from 0.

        Returns:
            True once the tunnel is open; `ports` is then set. If the run or the attempt ended first: whether that
            one succeeded. After an attempt that ended, call `attach` again for the next one.

        Raises:
            ResourceNotExistsError: the run has no such job.
            PortUsedError: a local port is in use or not permitted.
            SSHError: the tunnel could not be opened.

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

        Works without `attach`. In the main thread, SIGINT and SIGTERM are sent to the command. A second SIGINT ends
        the wait for it.

        Args:
            command: the program and its arguments, passed on unchanged; use `["sh", "-c", "…"]` for a shell command.
            has_terminal: whether the command gets a terminal: this process's own terminal if it has one.
            ssh_identity_file: an ed25519 private key; by default the client's own key.
            replica_num: the number of the replica, from 0.
            job_num: the number of the node in that replica, from 0.

        Returns:
            The command's exit code: 127 if the program is missing, 128 + n after signal n.

        Raises:
            ResourceNotExistsError: the run has no such job.
            ClientError: the job does not run.
            SSHError: the connection could not be opened, or was lost.

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
            if job is None and self.view.service is not None:
                raise ClientError(f"No replica of `{self.name}` runs: {self.view.service.waits_for}", hint=hint)
            raise ClientError(f"The job of `{self.name}` is {state}: no command can be run in it", hint=hint)
        access = self._grant(key, replica_num, job_num)
        _connection.check_way(access, same_machine=self._context.same_machine)
        return _exec.execute(access, key, shlex.join(command), _exec.Ends(), has_terminal=has_terminal)

    def detach(self) -> None:
        """Close the tunnel and undo the other effects of `attach`. Does nothing if the run is not attached.

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
        """Stop the run and detach. Returns before the run has ended.

        Args:
            abort: whether to end the run at once, without a grace period after SIGTERM.

        Raises:
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> from dstack.api import Client, Task
            >>> run = Client.from_config().runs.submit(Task(commands=["sleep 60"]))
            >>> run.stop()
            >>> [one.status.value for one in run.changes()][-1]
            'terminated'
        """
        from dstack.protocol.requests import StopRun

        self._view = self._context.transport.call(
            routes.STOP_RUN, StopRun(abort=abort), project=self._context.project, run=self.id
        )
        self.detach()

    def _grant(self, key: Identity, replica: int, node: int) -> AccessView:
        """Authorize the key for the job."""
        from dstack.protocol.requests import GrantAccess

        body = GrantAccess(public_key=key.public_key, replica=replica, node=node)
        access: AccessView = self._context.transport.call(
            routes.GRANT_ACCESS, body, project=self._context.project, run=self.id
        )
        return access

    def _runs_again(self, replica: int, node: int) -> bool:
        """Wait until the job runs, in this or a later attempt; return False if the run has ended."""
        here = Run(self._context, self._view)  # another thread may follow this object
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
        """Open the tunnel; return False if the job ended first.

        The host knows of the job's end before the server. So a refusal is retried once if the job seems to run.
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
