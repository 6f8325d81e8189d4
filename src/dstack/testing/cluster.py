"""A whole dstack for one test: the real server, made-up clouds, jobs that do as they are told. No network, no waiting.

Everything is synchronous: what is asked for has happened when the call returns, and time passes only when told to.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dstack.domain.offers import Offer
from dstack.errors import ConfigurationError
from dstack.operations import backends, history, runs, submitting, updating
from dstack.operations.context import Context
from dstack.protocol.requests import SubmitRun
from dstack.protocol.statuses import JobReason, JobStatus, RunStatus
from dstack.protocol.views import RunView
from dstack.spec.configurations import Configuration
from dstack.spec.parse import configuration_of, parse_configuration, to_mapping
from dstack.store.users import User
from dstack.testing.behaviours import Behaviour
from dstack.testing.crashes import points_of_calls
from dstack.testing.faults import Fault, Faults
from dstack.testing.hosts import Host
from dstack.testing.markets import markets_of
from dstack.testing.servers import RESTART_AFTER_S
from dstack.testing.time import VirtualLoop
from dstack.testing.world import World, make_world, world_folder

T = TypeVar("T")
PROJECT = "main"
HOUR_S = 3600.0
STORY_LINES_SHOWN = 30
SERVERS_MAX = 5


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one node of a run."""

    number: int
    """From 1."""
    node: int
    status: JobStatus
    reason: JobReason | None
    exit_code: int | None
    machine: str | None
    """The key of the machine it was placed on."""


@dataclass(frozen=True, slots=True)
class MachineView:
    """A machine that exists, and costs money."""

    key: str
    backend: str
    instance_type: str
    spot: bool
    price: float
    """US dollars an hour."""
    jobs: tuple[str, ...]
    """The names of the runs whose jobs are running there."""


class ClusterRun:
    """A run of a `Cluster`."""

    def __init__(self, cluster: "Cluster", view: RunView) -> None:
        self._cluster = cluster
        self.id = view.id
        self.name = view.name

    @property
    def view(self) -> RunView:
        """All that the API shows of it now."""
        return self._cluster.ask(lambda context, user: runs.get(context, user, PROJECT, self.id))

    @property
    def status(self) -> RunStatus:
        """Where it is in its life."""
        return self.view.status

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every try of every node, first to last."""
        rows = self._cluster.world.watch.ledger.jobs(self.id)
        return tuple(
            Attempt(
                number=row.attempt,
                node=row.node,
                status=JobStatus(row.status),
                reason=None if row.reason is None else JobReason(row.reason),
                exit_code=row.exit_code,
                machine=row.instance_id,
            )
            for row in rows
        )

    def wait(self, status: RunStatus | str | None = None, *, hours: float = 24.0) -> RunStatus:
        """Let time pass until the run has ended, or is in this status. Returns its status.

        Raises:
            TimeoutError: that did not happen within so many virtual hours, or cannot happen any more.
        """
        wanted = None if status is None else RunStatus(status)
        self._cluster.run(self._wait(wanted, hours * HOUR_S))
        return self.status

    async def _wait(self, wanted: RunStatus | None, within_s: float) -> None:
        watch = self._cluster.world.watch
        try:
            async with asyncio.timeout(within_s):
                while (now := watch.ledger.run_status(self.id)) != wanted:
                    if now is None or now.is_finished():
                        break
                    await watch.next_move()
        except TimeoutError:
            told = self._cluster.story(STORY_LINES_SHOWN)
            raise TimeoutError(f"{self.name} was still {now} after {within_s / HOUR_S:g} hours\n{told}") from None
        if wanted is not None and now != wanted:
            raise TimeoutError(f"{self.name} ended as {now} and was not {wanted} meanwhile")

    def logs(self, *, node: int = 0) -> bytes:
        """All that the run's job has printed so far, through all attempts."""
        query = history.LogQuery(self.id, 0, node, "job", 0, None)

        async def read(context: Context, user: User) -> bytes:
            cursor = await history.open_log(context, user, PROJECT, query)
            return b"".join([part.data async for part in history.read_log(context, cursor, follow=False)])

        return self._cluster.ask(read)

    def update(self, *, force: bool = False, **fields: Any) -> None:
        """Give it other values of some fields, as `client.runs.exec_plan` does.

        Args:
            force: whether the replicas of a service are replaced at once.

        Raises:
            InvalidRequestError: a field cannot change while it runs.
        """
        configuration = {**self.view.spec["configuration"], **fields}
        request = SubmitRun(run_name=self.name, configuration=configuration)
        self._cluster.ask(lambda context, user: updating.update(context, user, PROJECT, self.id, request, force=force))

    def request(self, *, times: int = 1, takes_s: float = 1.0) -> None:
        """Send requests to a service; they are answered as time passes.

        Args:
            takes_s: the time that a replica needs for each.
        """

        async def send() -> None:
            for _ in range(times):
                self._cluster.world.clients.send(self.id, takes_s)

        self._cluster.run(send())

    def stop(self, *, abort: bool = False) -> None:
        """Ask for its end; `wait` for it."""
        self._cluster.ask(lambda context, user: runs.stop(context, user, PROJECT, self.id, abort=abort))


class Cluster:
    """One made-up world with the real server in it.

    Args:
        backends: their names, or what each has on sale.
        faults: what goes wrong.
        clock: `virtual`, the only one there is.
        seed: the same seed is the same history.
        servers: how many work on one database; each request goes to any of them.

    Examples:
        >>> with Cluster() as cluster:
        ...     cluster.submit("type: task\\ncommands: [python train.py]").wait().value
        'done'
    """

    def __init__(
        self,
        backends: Sequence[str] | Mapping[str, Sequence[Offer]] = ("local",),
        faults: Sequence[Fault] = (),
        *,
        clock: str = "virtual",
        seed: int = 1,
        servers: int = 1,
    ) -> None:
        if clock != "virtual":
            raise ConfigurationError(f"There is no clock called `{clock}`", hint="Use `virtual`")
        if not 1 <= servers <= SERVERS_MAX:
            raise ConfigurationError(f"A cluster has 1 to {SERVERS_MAX} servers, and not {servers}")
        _refuse_running_loop()
        self._exit = ExitStack()
        folder = self._exit.enter_context(world_folder())
        self._runner = asyncio.Runner(loop_factory=lambda: VirtualLoop(points_of_calls))
        chance = random.Random(seed)
        made = make_world(folder, markets_of(backends), Faults(faults), chance, servers=servers)
        self.world: World = self._runner.run(made)
        self._exit.callback(self.world.close)
        self._exit.callback(self._runner.close)
        self._going = self._runner.run(self._start())

    async def _start(self) -> "list[asyncio.Task[None]]":
        return self.world.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Let the world go on until this is done."""
        return self._runner.run(coroutine)

    def ask(self, operation: Callable[[Context, User], Coroutine[Any, Any, T]]) -> T:
        """What an operation of the server answers; asked again where the server dies meanwhile."""
        return self.run(self.world.server.ask(operation))

    def when(
        self,
        run_name: str,
        *,
        exits: Sequence[int] = (0,),
        takes_s: float = 0.0,
        prints: str | bytes = b"",
        ready_after_s: float | None = None,
    ) -> None:
        """Say what the jobs of a run do, before it is submitted.

        Args:
            exits: the exit codes of the attempts, one after the other; the last one is that of all that follow.
            takes_s: how long each attempt takes.
            prints: what each attempt prints.
            ready_after_s: after how many seconds a replica of a service is ready; None for at once. A revision whose
                commands have `# fails` exits, and one with `# never ready` is never ready.
        """
        printed = prints.encode() if isinstance(prints, str) else prints
        self.world.nature.behaviours.set(run_name, Behaviour(tuple(exits), takes_s, printed, ready_after_s))

    def submit(self, configuration: Configuration | Mapping[str, Any] | str, *, name: str | None = None) -> ClusterRun:
        """Submit a configuration: an object such as `Task(...)`, a mapping, or YAML text.

        Raises:
            DstackError: as `client.runs.submit` does.
        """
        match configuration:
            case str():
                configuration = parse_configuration(configuration, "configuration.dstack.yml")
            case Mapping():
                configuration = configuration_of(configuration)
        request = SubmitRun(run_name=name, configuration=to_mapping(configuration))
        key = f"{self.world.nature.chance.getrandbits(64):x}"
        return ClusterRun(self, self.ask(lambda context, user: submitting.submit(context, user, PROJECT, request, key)))

    def add_backend(self, name: str, offers: Sequence[Offer] | None = None, *, project: str | None = None) -> None:
        """Add a backend while servers run, as `client.backends.add` does.

        Args:
            name: its type; its cloud stays the same when it is deleted and added again.
            offers: what it has on sale; by default as for `backends`.
            project: the only project that may use it; None for all.
        """
        self.world.open_cloud(name, markets_of([name])[name] if offers is None else offers)
        self.ask(lambda context, user: backends.put(context, user, project, name, {"type": name}))

    def delete_backend(
        self, name: str, *, drain: bool = False, force: bool = False, project: str | None = None
    ) -> None:
        """Delete a backend that was added, as `client.backends.delete` does.

        Raises:
            InvalidRequestError: it has machines, and is neither to be drained nor forced.
        """
        self.ask(lambda context, user: backends.delete(context, user, project, name, drain=drain, force=force))

    def pass_time(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let virtual time pass."""
        self.run(asyncio.sleep(((days * 24 + hours) * 60 + minutes) * 60 + seconds))

    @property
    def machines(self) -> list[MachineView]:
        """Every machine that exists now."""
        return [_machine_of(host) for host in self.world.clouds.hosts()]

    @property
    def violations(self) -> list[str]:
        """What was broken of what must always hold; empty, or there is a bug in dstack."""
        return [str(violation) for violation in self.world.watch.violations]

    def reclaim(self, run: ClusterRun) -> None:
        """Take away the machines on which a run is running, as a cloud does with spot machines."""

        async def end() -> None:
            for host in self.world.clouds.hosts():
                if run.name in _machine_of(host).jobs and (cloud := self.world.clouds.find(host.key)) is not None:
                    cloud.end(host.key)

        self.run(end())

    def crash_server(self) -> None:
        """Kill the server, any of them where there are several; it is started again, and finds its database."""

        async def crash() -> None:
            self.world.server.switch.strike("because the test set it")
            await asyncio.sleep(2 * RESTART_AFTER_S)

        self.run(crash())

    def back_up(self, target: Path) -> None:
        """Copy the server's database, as it is now, into a file."""
        _copy_database(self.world.folder / "server.db", target)

    def restore(self, source: Path) -> None:
        """Kill the server, and let it come back with the database that `back_up` has copied."""

        async def change() -> None:
            self.world.server.switch.strike("because the test set it")
            await asyncio.sleep(RESTART_AFTER_S / 2)
            _copy_database(source, self.world.folder / "server.db")
            self.world.watch.database_was_replaced()
            await asyncio.sleep(2 * RESTART_AFTER_S)

        self.run(change())

    def story(self, lines: int | None = None) -> str:
        """What happened, line by line, or the last lines of it."""
        told = self.world.watch.story()
        return "\n".join(str(line) for line in (told if lines is None else told[-lines:]))

    def check(self) -> None:
        """Ask whether all that must always hold does hold.

        Raises:
            AssertionError: it does not: a bug in dstack. Tells what, and the end of the story.
        """

        async def look() -> None:
            self.world.watch.look_back(self.world.logs)

        self.run(look())
        if self.violations:
            raise AssertionError("\n".join([*self.violations, self.story(STORY_LINES_SHOWN)]))

    def close(self) -> None:
        """End the world."""
        self._exit.close()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError(
        "A cluster has an event loop of its own, and cannot be used in a coroutine",
        hint="Write the test with plain `def`",
    )


def _machine_of(host: Host) -> MachineView:
    return MachineView(
        key=host.key,
        backend=host.offer.backend,
        instance_type=host.offer.instance_type,
        spot=host.offer.spot,
        price=host.offer.price,
        jobs=tuple(job.order.run_name for job in host.jobs.values() if job.is_running),
    )
