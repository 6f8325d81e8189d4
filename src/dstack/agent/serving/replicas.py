"""The life of a replica beside its job: probed until the job ends, and ended where it listens at a wrong port."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Protocol, TypeAlias

from dstack.agent.paths import JobFolder, channels_path, write_json
from dstack.agent.records import Ending, KnownReplica
from dstack.agent.runtimes.base import Runtime
from dstack.agent.serving.failures import taken_port
from dstack.agent.serving.looking import look
from dstack.agent.serving.networks import HOSTS, Network, listening, network_in
from dstack.agent.serving.probes import PORT, Readiness
from dstack.agent.serving.reaching import NotKnown, Way
from dstack.agent.serving.wrong_ports import WrongPort
from dstack.kit.tasks import TaskGroup
from dstack.protocol.agent import JobOrder, Probe, Serving

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.2
"""After a look that could find out nothing."""
PORTS_EVERY_S = 5.0
REASON_CHARS_MAX = 500


End: TypeAlias = Callable[[str], Awaitable[None]]
"""Ends the job, for a reason that is on record."""


class Report(Protocol):
    """Reports a change of a job, if it is one."""

    def __call__(self, **changes: object) -> None: ...


class Replica:
    """One job of a service that runs, or is about to."""

    def __init__(
        self, folder: JobFolder, order: JobOrder, serving: Serving, runtime: Runtime, known: KnownReplica
    ) -> None:
        """Args: `known`: its record."""
        self._folder = folder
        self._order = order
        self._serving = serving
        self._runtime = runtime
        self._known = known
        socket_path = channels_path(folder.root.parent.parent)
        self._way = Way(str(socket_path), folder.job_id, known.port, self._network, known.address)
        self._probes = serving.probes or (PORT,)
        self._readiness = Readiness(self._probes, self._known.is_ready)
        self._wrong = WrongPort(self._known.port)
        self._not_known = ""
        """Why the latest look could find out nothing."""

    async def beside(self, wait: Callable[[], Awaitable[Ending]], report: Report, end: End) -> Ending:
        """Look after it until its job has ended. Returns the end.

        Args:
            wait: waits for the end of the job.
        """
        beside = TaskGroup()
        for number, probe in enumerate(self._probes):
            beside.keep(f"probe {number} of {self._folder.job_id}", partial(self._keep_probing, number, probe, report))
        beside.keep(f"ports of {self._folder.job_id}", partial(self._mind_ports, report, end))
        try:
            ending = await wait()
        finally:
            await beside.close()
        await self._judge(ending)
        return ending

    async def _keep_probing(self, number: int, probe: Probe, report: Report) -> None:
        while (pause_s := self._readiness.pause_s(number)) is not None:
            try:
                failure = await look(self._way, probe)
            except NotKnown as error:
                self._not_known = str(error)
                self._tell(report)
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            self._not_known = ""
            self._readiness.took(number, failure)
            self._tell(report)
            if (pause_s := self._readiness.pause_s(number)) is not None:
                await asyncio.sleep(pause_s)

    def _tell(self, report: Report) -> None:
        is_ready = self._readiness.is_ready
        known = replace(self._known, is_ready=is_ready, address=self._way.address)
        if known != self._known:
            self._write(known)
        reasons = (self._readiness.reason or self._not_known, self._wrong.hint)
        reason = "" if is_ready else "; ".join(filter(None, reasons))
        report(ready=is_ready, unready_reason=reason[:REASON_CHARS_MAX], address=self._way.address)

    async def _mind_ports(self, report: Report, end: End) -> None:
        """Watch the ports of its program until it is ready for the first time; end it if it only listens elsewhere."""
        if self._known.failure:  # an earlier agent died before it had ended the job
            return await end(self._known.failure)
        while not self._readiness.is_ready:
            await asyncio.sleep(PORTS_EVERY_S)
            try:
                ports, cpu_s = await asyncio.to_thread(self._ports_now)
            except OSError:  # this host does not see them just now, or never
                continue
            has_failed = self._wrong.took(asyncio.get_running_loop().time(), ports, cpu_s)
            if self._readiness.is_ready:
                return
            self._tell(report)
            if has_failed:
                failure = self._wrong.failure(self._serving.port)
                self._write(replace(self._known, failure=failure))
                return await end(failure)

    def _network(self) -> Network | None:
        if self._order.container is None:
            return HOSTS
        described = self._runtime.described(self._folder)
        return None if described is None else network_in(described)

    def _ports_now(self) -> tuple[frozenset[int], float | None]:
        network = self._network()
        usage = self._runtime.usage([self._folder]).get(self._folder.job_id)
        ports = frozenset[int]() if network is None else listening(network, self._runtime.living(self._folder))
        return ports, None if usage is None else usage.cpu_s

    async def _judge(self, ending: Ending) -> None:
        """Put on record that a job has ended because its port was not its own, if that is so."""
        failure = await asyncio.to_thread(taken_port, self._folder, self._known, self._serving.port, ending)
        if failure and not self._known.failure and self._shares_host():
            self._write(replace(self._known, failure=failure))

    def _shares_host(self) -> bool:
        return self._order.container is None or self._order.container.host_network

    def _write(self, known: KnownReplica) -> None:
        self._known = known
        try:
            write_json(self._folder.service, asdict(known))
        except OSError as error:  # the next agent finds out again
            log.warning("The state of the replica %s is not stored: %s", self._folder.job_id, error)
