"""The asyncio form of `dstack.api._run`. Written by `make docs`; do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dstack.api.aio._run_readings import RunReadings

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Sequence

    from dstack.spec.ports import PortMapping


class Run(RunReadings):
    """One run. Its properties are as of the last `refresh`, `attach` or `logs`.

    Examples:
        >>> import asyncio
        >>> from dstack.api.aio import Client, Task
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         run = await client.runs.submit(Task(commands=["echo hello"]), run_name="first")
        ...         print((run.name, run.ports, run.exit_code))
        ...         print(b"".join([item async for item in run.logs()]))
        ...         await run.refresh()
        ...         print((run.status.value, run.exit_code, run.backend.value, run.hostname))
        >>> asyncio.run(main())
        ('first', None, None)
        b'hello\\n'
        ('done', 0, 'local', '127.0.0.1')
    """

    async def refresh(self) -> None:
        """Fetch the run's current state from the server.

        Raises:
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["true"]))
            ...         await run.refresh()
            >>> asyncio.run(main())
        """
        await self._threads.call(self._run.refresh)

    async def changes(self) -> AsyncIterator[Run]:
        """Yield this run now and after each change, until it has ended. Waits for the server's events and never polls.

        Raises:
            ResourceNotExistsError: the run was deleted.
            ServerUnreachableError: the server did not answer for five minutes.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["true"]))
            ...         print([one.status.value async for one in run.changes()][-1])
            >>> asyncio.run(main())
            done
        """
        async for one in self._threads.stream(self._run.changes()):
            yield self if one is self._run else Run(one, self._threads)

    async def attach(
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["sleep 60"], ports=["*:8000"]))
            ...         print(await run.attach())
            ...         print(sorted(run.ports))
            ...         await run.stop(abort=True)
            >>> asyncio.run(main())
            True
            [8000]
        """
        return await self._threads.wait(
            self._run.attach, ssh_identity_file, bind_address, ports_overrides, replica_num, job_num
        )

    async def exec(
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
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["sleep 60"]))
            ...         print(await run.attach())
            ...         print(await run.exec(["sh", "-c", "exit 3"]))
            ...         await run.stop(abort=True)
            >>> asyncio.run(main())
            True
            3
        """
        return await self._threads.wait(
            self._run.exec,
            command,
            has_terminal=has_terminal,
            ssh_identity_file=ssh_identity_file,
            replica_num=replica_num,
            job_num=job_num,
        )

    async def detach(self) -> None:
        """Close the tunnel and undo the other effects of `attach`. Does nothing if the run is not attached.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["sleep 60"]))
            ...         print(await run.attach())
            ...         await run.detach()
            ...         await run.stop(abort=True)
            >>> asyncio.run(main())
            True
        """
        await self._threads.call(self._run.detach)

    async def stop(self, abort: bool = False) -> None:
        """Stop the run and detach. Returns before the run has ended.

        Args:
            abort: whether to end the run at once, without a grace period after SIGTERM.

        Raises:
            ResourceNotExistsError: the run was deleted.

        Examples:
            >>> import asyncio
            >>> from dstack.api.aio import Client, Task
            >>> async def main():
            ...     async with Client.from_config() as client:
            ...         run = await client.runs.submit(Task(commands=["sleep 60"]))
            ...         await run.stop()
            ...         print([one.status.value async for one in run.changes()][-1])
            >>> asyncio.run(main())
            terminated
        """
        await self._threads.call(self._run.stop, abort)
