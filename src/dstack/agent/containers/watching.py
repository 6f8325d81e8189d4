"""Watching over a job's container until it has ended, and bringing its end about."""

import asyncio
import json
import math
import os
import signal
from asyncio import Event, Task
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from dstack.agent import processes
from dstack.agent.containers.api import (
    PART_AWAY,
    RETRY_S,
    ContainerEngine,
    EngineAway,
    EngineRefused,
    EngineStalls,
    Query,
)
from dstack.agent.containers.launcher import NOT_STARTED
from dstack.agent.containers.refusals import refusal_of_start
from dstack.agent.metrics.groups import ControlGroup, find_group
from dstack.agent.notes import note
from dstack.agent.output import await_emptied, waiting_bytes
from dstack.agent.paths import JobFolder
from dstack.agent.records import Ending, container_name, ran_for_s, read_container, read_grace_s
from dstack.kit.clock import Clock, SystemClock
from dstack.kit.text import memory_text
from dstack.protocol.agent import JobOrder

AWAY_MAX_S = 60.0
"""How long an engine may be away before it is looked whether anything of its jobs still lives."""
SILENCE_MAX_S = 30.0
"""How long the engine may take to answer. While a job runs, it is asked as often whether it is there."""
SIGNAL_TIMEOUT_S = 5.0
"""How long the engine may take to pass on a signal. Then it is sent without the engine."""
KILL_EVERY_S = 5.0
KILL_TRIES = 24
"""After so many, what is left cannot be killed (it hangs in the kernel)."""

CARRIED_WITHIN_S = 5.0
"""How long what the job has printed may take on its way into the log, where we want to read it."""

EVENTS_STALL_S = 5.0
CODE_LOST = 255
"""Docker's word for the exit code of a container that ended while its containerd was away; a job may end so, too."""
CODE_UNKNOWN = "The container engine of the machine was away when the job ended, and does not know its exit code"
KILLED, TERMINATED = 128 + 9, 128 + 15
"""The exit codes of what was ended by SIGKILL and SIGTERM."""
SIGNALLED = (KILLED, TERMINATED)

DIED_STARTING = "the container engine of the machine died while it started it"

ENDED = {"condition": "not-running"}


@dataclass(slots=True)
class Watch:
    """Sees one started container to its end."""

    engine: ContainerEngine
    clock: Clock
    folder: JobFolder
    order: JobOrder
    away_max_s: float
    silence_max_s: float = SILENCE_MAX_S
    stop_asked: Event = field(default_factory=Event)
    """To be set whenever the job's file `stop` has changed."""
    described: dict[str, Any] | None = None
    """The container as its engine describes it, while it runs."""
    _troubles: set[type[Exception]] = field(default_factory=set)
    """The kinds of trouble that there was with the engine."""
    _troubled_since: float | None = None
    """In the loop's seconds; None while the engine tells of the container."""
    _container: tuple[str, int] | None = None
    """Its id, and the number of its first process as the engine counts; known while it runs."""
    _group: ControlGroup | None = None

    async def run(self) -> Ending:
        """Wait for the container's end; bring it about when that is asked for or its time is over."""
        if self.folder.stop.exists():
            self.stop_asked.set()
        exited = asyncio.create_task(self._exited(self._id), name=f"container of {self.folder.job_id}")
        end = "exited"
        try:
            end = await self._see_to_its_end(ran_for_s(self.folder), exited)
            if not exited.done():
                await self._kill(exited)
            return await self._ending(end, exited)
        except EngineAway as error:
            left = "" if await self._end_what_is_left() and os.geteuid() == 0 else "; some of the job may live on"
            message = f"The container engine of the machine does not answer: {error}{left}"
            return Ending("engine_lost" if end == "exited" else end, self._now(), message=message)
        finally:
            exited.cancel()

    @property
    def _id(self) -> str:
        """That of the container; its name, where its file is lost: the engine finds it by that too."""
        known = read_container(self.folder)
        return container_name(self.folder.job_id) if known is None else known.id

    def control_group(self) -> ControlGroup | None:
        """That of the container; None while it does not run, or where it cannot be seen."""
        if self._group is None and self._container is not None:
            id, pid = self._container
            self._group = find_group(pid, id)
        return self._group

    async def _exited(self, id: str) -> dict[str, Any]:
        """What the engine says of a container that has exited. Outlasts an engine that starts anew, or fails to tell.

        A job may outlive its engine (`live-restore`): it goes on for as long as we see a process of it.

        Raises:
            EngineAway: it was away, or failed to tell, for too long, and nothing of the job is seen.
        """
        is_gone = False
        while True:
            try:
                state: dict[str, Any] = await self._state(id)
                if not state.get("Running"):
                    return state
                self._container = id, int(state.get("Pid") or 0)
                self._troubled_since, is_gone = None, False
                await self._wait(id)
            except (EngineAway, EngineRefused) as trouble:
                if isinstance(trouble, EngineRefused) and trouble.status == HTTPStatus.NOT_FOUND:
                    return {"Lost": "it was removed"}
                if is_gone:
                    raise EngineAway(str(trouble)) from None
                is_gone = await self._outlast(trouble)

    async def _wait(self, id: str) -> None:
        """Until the engine says that the container has exited.

        Raises:
            EngineRefused
            EngineAway: also where it hangs.
        """
        call = self.engine.call("POST", f"/containers/{id}/wait", query=ENDED, timeout_s=None)
        waiting = asyncio.create_task(call, name=f"end of container {id}")
        try:
            while not (await asyncio.wait((waiting,), timeout=self.silence_max_s))[0]:
                if not await self.engine.is_back(self.silence_max_s):
                    raise EngineAway(f"it did not answer within {self.silence_max_s:g} s")
            await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _outlast(self, trouble: EngineAway | EngineRefused) -> bool:
        """Wait until the engine may be asked again.

        Returns: whether it has told nothing of the container for too long, and nothing of the job is seen. Then it may
            be asked a last time: the end that we see may be one that it has just brought about.
        """
        now_s = asyncio.get_running_loop().time()
        if self._troubled_since is None:
            self._troubled_since = now_s
        what = "is away" if isinstance(trouble, EngineAway) else "does not report the job"
        if type(trouble) not in self._troubles:
            note(self.folder, self.clock, f"the container engine {what} ({trouble})")
            self._troubles.add(type(trouble))
        is_back = await self.engine.is_back(self.away_max_s)
        await asyncio.sleep(RETRY_S)
        if is_back and now_s - self._troubled_since < self.away_max_s:
            return False
        return not await self._processes()

    async def _processes(self) -> set[int]:
        """What lives of the job, as far as we may see it."""
        return await asyncio.to_thread(self.living)

    def living(self) -> set[int]:
        """Return the processes of the job that are seen here."""
        return processes.marked(self.folder.job_id) | processes.grouped(self._id)

    async def _end_what_is_left(self) -> bool:
        """Kill what is seen of the job; wait for what is not ours to kill. Returns whether nothing is seen any more."""
        while not await asyncio.to_thread(processes.end_all, self.living):
            if os.geteuid() == 0:
                return False
        return True

    async def _state(self, id: str) -> dict[str, Any]:
        state = await self._inspect(id)
        if is_unstarted(state):
            # The agent died between its note and the start, or the engine just then.
            if self.folder.log("job").stat().st_size or waiting_bytes(self.folder):
                return {"Lost": DIED_STARTING}
            try:
                await self.engine.call("POST", f"/containers/{id}/start")
            except EngineRefused as refusal:
                return {"Lost": DIED_STARTING} if is_half_started(refusal.message) else {"Refused": refusal.message}
            state = await self._inspect(id)
        return {"Lost": DIED_STARTING} if was_cut_off(state) else state

    async def _inspect(self, id: str) -> dict[str, Any]:
        answer: dict[str, Any] = await self.engine.call("GET", f"/containers/{id}/json", timeout_s=self.silence_max_s)
        state: dict[str, Any] = answer["State"]
        self.described = answer if state.get("Running") else None
        return state

    async def _see_to_its_end(self, ran_for_s: float, exited: "Task[dict[str, Any]]") -> str:
        max_s = self.order.max_duration_s
        left_s = None if max_s is None else max(0.0, max_s - ran_for_s)
        if await _first(exited, self.stop_asked, left_s):
            return "exited"
        end = "stopped" if self.stop_asked.is_set() else "max_duration"
        if end == "max_duration":
            note(self.folder, self.clock, f"the job has run for {max_s:g} s, its `max_duration`")
        await self._end_gracefully(exited)
        return end

    async def _kill(self, exited: "Task[dict[str, Any]]") -> None:
        """Until it has exited, or hangs in the kernel. While nobody can pass a signal on, it is not given up.

        Raises:
            EngineAway: the engine cannot say that it has exited, and nothing of the job is seen.
        """
        tries = 0
        while tries < KILL_TRIES:
            if await self._signal("SIGKILL"):
                tries += 1
            if await _first(exited, None, KILL_EVERY_S):
                return
            if not await self._processes() and not await self.engine.is_back(KILL_EVERY_S):
                raise EngineAway(f"it did not answer within {KILL_EVERY_S:g} s")

    async def _end_gracefully(self, exited: "Task[dict[str, Any]]") -> None:
        """Ask the job to end, and wait as long as it may take. Asked again, it has the time of the last asking."""
        while True:
            wish_s = read_grace_s(self.folder) if self.stop_asked.is_set() else None
            self.stop_asked.clear()
            grace_s = self.order.stop_grace_s if wish_s is None else wish_s
            note(self.folder, self.clock, f"asked to end, with {grace_s:g} s of grace")
            if grace_s <= 0:
                return
            await self._ask_to_end()
            if await _first(exited, self.stop_asked, grace_s) or not self.stop_asked.is_set():
                return

    async def _ask_to_end(self) -> None:
        with suppress(EngineRefused, EngineAway):
            if self.order.script and await self.engine.is_podman(SIGNAL_TIMEOUT_S):
                # Its init passes a signal on to its own child alone, and that is a shell which waits for what it runs.
                await self._execute("kill -TERM -1; kill -CONT -1")
                return
        # A process that was stopped gets its SIGTERM only when it is continued.
        await asyncio.gather(self._signal("SIGTERM"), self._signal("SIGCONT"))

    async def _execute(self, command: str) -> None:
        body = {"Cmd": ["sh", "-c", command], "User": "0"}
        path = f"/containers/{self._id}/exec"
        made = await self.engine.call("POST", path, body, timeout_s=SIGNAL_TIMEOUT_S)
        await self.engine.call("POST", f"/exec/{made['Id']}/start", {"Detach": True}, timeout_s=SIGNAL_TIMEOUT_S)

    async def _signal(self, name: str) -> bool:
        """Send a signal, by the engine or else without it. Returns whether the job has got it, if it still lives."""
        path, query = f"/containers/{self._id}/kill", {"signal": name}
        try:
            await self.engine.call("POST", path, query=query, timeout_s=SIGNAL_TIMEOUT_S)
            return True
        except EngineRefused as refusal:
            if refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR:  # it is over already
                return True
        except EngineAway:
            pass  # the signal does not need it
        return processes.send(signal.Signals[name], await self._processes())

    async def _ending(self, end: str, exited: "Task[dict[str, Any]]") -> Ending:
        if not exited.done():
            return Ending(end, self._now(), message="The container did not end, not even by SIGKILL")
        state = await exited
        if "Lost" in state:
            await self._end_what_is_left()
            return Ending("engine_lost", self._now(), message=f"The job's container is lost: {state['Lost']}")
        if "Refused" in state and self.order.container is not None:
            why = refusal_of_start(self.order.container, state["Refused"])
            return Ending("start_failed", self._now(), message=why.message)
        code = int(state.get("ExitCode", 0))
        if code == NOT_STARTED and (missing := await asyncio.to_thread(_said_by_launcher, self.folder)):
            return Ending("start_failed", self._now(), message=missing)
        if code == CODE_LOST and self._troubled_since is not None:
            return Ending("engine_lost", self._now(), message=CODE_UNKNOWN)
        note(self.folder, self.clock, f"ended with exit code {code}")
        return Ending(end, self._now(), code, None, await self._why(end, state))

    async def _why(self, end: str, state: dict[str, Any]) -> str:
        limit_bytes = self.order.container.memory_bytes if self.order.container else None
        limit = f", {memory_text(limit_bytes / (1 << 20))}" if limit_bytes else ""
        if state.get("OOMKilled"):
            return f"it ran out of memory{limit}"
        code = int(state.get("ExitCode", 0))
        if end != "exited" or code not in SIGNALLED:
            return str(state.get("Error") or "")
        if EngineAway in self._troubles:
            return "the container engine of the machine has restarted"
        if await self._was_signalled():
            return "its container, or the container engine of the machine, was stopped"
        if code == KILLED and limit:
            # Not every engine sees what the kernel does.
            return f"it was killed, perhaps because it ran out of memory{limit}"
        return str(state.get("Error") or "")

    async def _was_signalled(self) -> bool:
        """Whether the engine has sent a signal to the container, which we have not asked for, or is ending itself."""
        filters = json.dumps({"container": [self._id], "event": ["kill"]})
        now = SystemClock().now().timestamp()  # the machine's, which may have been set; so may the engine's
        query: Query = {"since": int(now - ran_for_s(self.folder)), "until": math.ceil(now), "filters": filters}
        try:
            async with aclosing(self.engine.lines("GET", "/events", stall_s=EVENTS_STALL_S, query=query)) as events:
                return await anext(events, None) is not None
        except EngineAway:
            return True
        except (EngineRefused, EngineStalls):
            return False

    def _now(self) -> float:
        return self.clock.now().timestamp()


def is_unstarted(state: Mapping[str, Any]) -> bool:
    """Whether a container has not run and can still be started: nobody tried, or the engine's containerd was away.

    Examples:
        >>> is_unstarted({"Status": "created", "ExitCode": 128, "Error": "dialing containerd.sock: unavailable"})
        True
        >>> is_unstarted({"Status": "created", "ExitCode": 127, "Error": "no such program"})
        False
    """
    is_refused = state.get("ExitCode") and not str(state.get("Error") or "").endswith(PART_AWAY)
    return state.get("Status") == "created" and not is_refused


def was_cut_off(state: Mapping[str, Any]) -> bool:
    """Whether a container never ran, since its engine died when it had half started it.

    Examples:
        >>> was_cut_off({"ExitCode": 128, "Error": "task 1f: already exists"}), was_cut_off({"ExitCode": 128})
        (True, False)
    """
    return state.get("ExitCode") == 128 and is_half_started(str(state.get("Error") or ""))


def is_half_started(said: str) -> bool:
    """Return whether Docker refuses a start since an earlier one was cut off.

    It then finds a task of the container in containerd, or an id in its own memory, that it does not know of.

    Examples:
        >>> is_half_started("task 1f: already exists"), is_half_started("id already in use")
        (True, True)
        >>> is_half_started("no such program")
        False
    """
    return said.endswith((": already exists", "id already in use"))


async def _first(exited: "Task[dict[str, Any]]", asked: Event | None, timeout_s: float | None) -> bool:
    """Wait until the container has exited, or something is asked for, or the time is over. Whether it has exited."""
    waiting: set[Task[Any]] = {exited}
    if asked is not None:
        waiting.add(asyncio.create_task(asked.wait(), name="waits for a stop"))
    done, _ = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting - {exited}:
        task.cancel()
    return exited in done


def _said_by_launcher(folder: JobFolder) -> str:
    """What the launcher wrote where it found nothing to start; nothing where the job itself has ended so. Blocks."""
    await_emptied(folder, CARRIED_WITHIN_S)
    known = read_container(folder)
    if known is None:
        return ""
    missing = known.missing
    with open(folder.log("job"), "rb") as file:
        return missing if file.read(len(missing.encode()) + 2) == f"{missing}\n".encode() else ""
