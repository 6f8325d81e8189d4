"""Jobs in containers of the host's engine, any image as it is.

What a job prints goes straight into its log file, which is mounted into the container. All that is remembered is the
file `container`: the engine knows the rest.
"""

import asyncio
import hashlib
import io
import logging
import os
import platform
import tarfile
from asyncio import Event, Task
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstack.agent import processes
from dstack.agent.containers.api import ContainerEngine, EngineAway, EngineRefused
from dstack.agent.containers.creation import HOME_LABEL, JOB_LABEL, creation, ids_of, program_of, script_text
from dstack.agent.containers.images import Image, find_image, pull
from dstack.agent.containers.launcher import MACHINES, NOT_STARTED, launcher
from dstack.agent.environment import resolve_working_dir
from dstack.agent.notes import note
from dstack.agent.paths import Home, JobFolder, read_json, write_json
from dstack.agent.runtimes.base import Runtime, Tell
from dstack.agent.supervisor import Ending
from dstack.errors import AgentRefused
from dstack.kit.clock import Clock
from dstack.protocol.agent import Container, JobOrder
from dstack.protocol.files import ABSOLUTE

log = logging.getLogger(__name__)

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
"""More of them make each slower and none sooner."""
AWAY_MAX_S = 60.0
"""How long an engine may be away before its jobs are given up."""
RETRY_S = 0.5
KILL_EVERY_S = 5.0
KILL_TRIES = 24
"""After so many, what is left cannot be killed (it hangs in the kernel)."""
FILE_BYTES_MAX = 4 << 20
IMAGES_MAX = 1000

REMOVAL = {"force": 1, "v": 1}
ENDED = {"condition": "not-running"}

NO_ENGINE_HINT = "Start Docker or Podman on the machine (Debian: `apt install docker.io`), or leave `image` out"


@dataclass(slots=True)
class _Watch:
    """What is known in memory of a job that runs."""

    stop_asked: Event = field(default_factory=Event)
    engine_was_away: bool = False


class ContainerRuntime(Runtime):
    """Runs jobs in containers."""

    def __init__(self, home: Home, engine: ContainerEngine, clock: Clock) -> None:
        self._home = home
        self._engine = engine
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._label = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]

    def was_started(self, folder: JobFolder) -> bool:
        return folder.container.exists()

    def started_at(self, folder: JobFolder) -> float | None:
        return (read_json(folder.container) or {}).get("started_at")

    async def prepare(self, folder: JobFolder, order: JobOrder, tell: Tell) -> None:
        """Have the image here."""
        container = _container(order)
        try:
            image = await find_image(self._engine, container.image)
            if image is None or container.username is not None or image.id in self._private():
                # Who may not pull it may not use it either, although somebody else has pulled it.
                note(folder, self._clock, f"pulling the image {container.image}")
                await pull(self._engine, container, tell)
                image = await find_image(self._engine, container.image)
                if image is not None and container.username is not None:
                    self._keep_private(image.id)
        except (EngineAway, EngineRefused) as error:
            raise _no_engine(error) from None
        if image is None:
            raise AgentRefused(f"The image `{container.image}` was pulled and is gone again")
        machine = platform.machine()
        if machine not in MACHINES or image.machine != machine:
            raise AgentRefused(
                f"The image `{container.image}` is for {image.machine}, and this machine is {machine}",
                hint="Name an image that is built for it",
            )
        program_of(order, image)
        note(folder, self._clock, f"the image is {image.id}")

    def _private(self) -> list[str]:
        """The ids of images that not everybody may pull."""
        return list((read_json(self._home.images) or {}).get("private", ()))

    def _keep_private(self, image_id: str) -> None:
        known = self._private()
        if image_id not in known:
            write_json(self._home.images, {"private": [*known[-IMAGES_MAX:], image_id]}, durable=True)

    async def start(self, folder: JobFolder, order: JobOrder, started_at: float) -> None:
        container = _container(order)
        async with self._starts:
            try:
                image = await find_image(self._engine, container.image)
                if image is None:
                    raise AgentRefused(f"The image `{container.image}` was removed before the job started")
                await asyncio.to_thread(self._lay_out, folder, order)
                id = await self._create(folder, order, image)
                uid, gid = await self._give_files(folder, id, container.user or image.user)
                known = {"id": id, "started_at": started_at, "uid": uid, "gid": gid}
                write_json(folder.container, {**known, "missing": program_of(order, image).missing})
                await self._engine.call("POST", f"/containers/{id}/start")
            except EngineRefused as refusal:
                raise _refusal_of_start(container, refusal) from None
            except EngineAway as error:
                raise _no_engine(error) from None
        note(folder, self._clock, f"started container {id[:12]}")

    def _lay_out(self, folder: JobFolder, order: JobOrder) -> None:
        """All that is mounted: who the job is in its container may not be who the agent is."""
        resolve_working_dir(folder.files, order.working_dir).mkdir(parents=True, exist_ok=True)
        if (elsewhere := folder.files / ABSOLUTE).is_dir():
            elsewhere.rename(folder.absolute)
        folder.log("job").chmod(0o666)
        folder.script.write_text(script_text(order))
        folder.script.chmod(0o644)
        for mount in _container(order).mounts:
            try:
                Path(mount.source).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise AgentRefused(f"The folder `{mount.source}` cannot be mounted: {error.strerror}") from None
        program = self._home.launcher
        if not program.exists():
            draft = program.with_name(f".{program.name}.{os.getpid()}")
            draft.write_bytes(launcher(platform.machine()))
            draft.chmod(0o755)
            draft.rename(program)

    async def _create(self, folder: JobFolder, order: JobOrder, image: Image) -> str:
        name = _name(order.job_id)
        body = creation(order, image, folder, {HOME_LABEL: self._label}, self._home.launcher)
        try:
            return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])
        except EngineRefused as refusal:
            if refusal.status != 409:
                raise
        # An earlier agent made it and died; it was never started, or else this one would not be here.
        await self._engine.call("DELETE", f"/containers/{name}", query=REMOVAL)
        return str((await self._engine.call("POST", "/containers/create", body, query={"name": name}))["Id"])

    async def _give_files(self, folder: JobFolder, id: str, user: str) -> tuple[int, int]:
        """Make the job's files those of who the job is. Returns the numbers of the user and the group."""
        if user.partition(":")[0] in ("", "root", "0"):
            return 0, 0
        ids = ids_of(user, await self._text(id, "/etc/passwd"), await self._text(id, "/etc/group"))
        if ids is None:
            raise AgentRefused(f"There is no user `{user}` in the image", hint="Name one of its users, or a number")
        for path in (folder.files, folder.absolute):
            await asyncio.to_thread(_chown, path, *ids)
        return ids

    async def _text(self, id: str, path: str) -> str:
        """A small text file of a container; nothing where it is not there."""
        async with self._engine.exchange("GET", f"/containers/{id}/archive", query={"path": path}) as answer:
            if answer.status != 200:
                return ""
            packed = await answer.read(FILE_BYTES_MAX)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            first = archive.next()
            content = archive.extractfile(first) if first is not None else None
            return content.read().decode(errors="replace") if content is not None else ""

    async def wait(self, folder: JobFolder, order: JobOrder) -> Ending:
        known = read_json(folder.container) or {}
        watch = self._watches.setdefault(folder.job_id, _Watch())
        if folder.stop.exists():
            watch.stop_asked.set()
        exited = asyncio.create_task(self._exited(str(known["id"]), watch), name=f"container of {folder.job_id}")
        try:
            end = await self._see_to_its_end(folder, order, float(known["started_at"]), watch, exited)
            return await self._ending(folder, order, end, exited, watch)
        except EngineAway as error:
            gone = await asyncio.to_thread(processes.end_marked, folder.job_id)
            left = "" if gone else "; some of the job may live on"
            message = f"The container engine did not answer for {AWAY_MAX_S:g} s ({error}){left}"
            return Ending("engine_lost", self._now(), message=message)
        finally:
            exited.cancel()
            self._watches.pop(folder.job_id, None)

    def stop(self, folder: JobFolder) -> None:
        self._watches.setdefault(folder.job_id, _Watch()).stop_asked.set()

    async def clean_up(self, folder: JobFolder) -> None:
        try:
            await self._engine.call("DELETE", f"/containers/{_name(folder.job_id)}", query=REMOVAL)
        except EngineAway as error:
            log.info("The container of job %s is removed later: %s", folder.job_id, error)
        except EngineRefused as refusal:
            if refusal.status != 404:
                log.warning("The container of job %s is removed later: %s", folder.job_id, refusal.message)

    async def sweep(self, unfinished: Collection[str]) -> None:
        """Remove what was left behind: containers of jobs that are over.

        Args:
            unfinished: the jobs whose containers stay.
        """
        try:
            filters = f'{{"label":["{HOME_LABEL}={self._label}"]}}'
            for one in await self._engine.call("GET", "/containers/json", query={"all": 1, "filters": filters}):
                if one["Labels"].get(JOB_LABEL) not in unfinished:
                    await self._engine.call("DELETE", f"/containers/{one['Id']}", query=REMOVAL)
        except (EngineAway, EngineRefused) as error:
            log.info("Containers are swept later: %s", error)

    async def _exited(self, id: str, watch: _Watch) -> dict[str, Any]:
        """What the engine says of a container that has exited. Outlasts an engine that starts anew.

        Raises:
            EngineAway: it was away for too long.
        """
        away_s = 0.0
        while True:
            try:
                state: dict[str, Any] = await self._state(id)
                away_s = 0.0
                if not state.get("Running"):
                    return state
                await self._engine.call("POST", f"/containers/{id}/wait", query=ENDED, timeout_s=None)
            except EngineRefused as refusal:
                if refusal.status != 404:
                    raise EngineAway(refusal.message) from None
                return {"Gone": True}
            except EngineAway:
                watch.engine_was_away = True
                if away_s >= AWAY_MAX_S:
                    raise
                await asyncio.sleep(RETRY_S)
                away_s += RETRY_S

    async def _state(self, id: str) -> dict[str, Any]:
        state: dict[str, Any] = (await self._engine.call("GET", f"/containers/{id}/json"))["State"]
        if state.get("Status") == "created" and not state.get("ExitCode"):
            # The agent died between its note and the start.
            await self._engine.call("POST", f"/containers/{id}/start")
            state = (await self._engine.call("GET", f"/containers/{id}/json"))["State"]
        return state

    async def _see_to_its_end(
        self, folder: JobFolder, order: JobOrder, started_at: float, watch: _Watch, exited: "Task[dict[str, Any]]"
    ) -> str:
        """Wait for the container's end, and bring it about when that is asked for or its time is over."""
        left_s = None if order.max_duration_s is None else max(0.0, started_at + order.max_duration_s - self._now())
        if await _first(exited, watch.stop_asked, left_s):
            return "exited"
        if not watch.stop_asked.is_set():
            note(folder, self._clock, f"the job has run for {order.max_duration_s:g} s, its `max_duration`")
        end = "stopped" if watch.stop_asked.is_set() else "max_duration"
        if not await self._ended_gracefully(folder, order, watch, exited):
            for _ in range(KILL_TRIES):
                await self._signal(folder, "SIGKILL")
                if await _first(exited, None, KILL_EVERY_S):
                    break
        return end

    async def _ended_gracefully(
        self, folder: JobFolder, order: JobOrder, watch: _Watch, exited: "Task[dict[str, Any]]"
    ) -> bool:
        """Ask the job to end, and wait as long as it may take. Asked again, it has the time of the last asking."""
        while True:
            wish = read_json(folder.stop) if watch.stop_asked.is_set() else None
            watch.stop_asked.clear()
            grace_s = order.stop_grace_s if wish is None else float(wish["grace_s"])
            note(folder, self._clock, f"asked to end, with {grace_s:g} s of grace")
            if grace_s <= 0:
                return False
            await self._signal(folder, "SIGTERM")
            if await _first(exited, watch.stop_asked, grace_s):
                return True
            if not watch.stop_asked.is_set():
                return False

    async def _signal(self, folder: JobFolder, name: str) -> None:
        known = read_json(folder.container) or {}
        with suppress(EngineRefused, EngineAway):  # it is over already, or asked again
            await self._engine.call("POST", f"/containers/{known['id']}/kill", query={"signal": name})

    async def _ending(
        self, folder: JobFolder, order: JobOrder, end: str, exited: "Task[dict[str, Any]]", watch: _Watch
    ) -> Ending:
        if not exited.done():
            return Ending(end, self._now(), message="The container did not end, not even by SIGKILL")
        state = await exited
        if state.get("Gone"):
            return Ending("engine_lost", self._now(), message="Somebody removed the job's container")
        code = int(state.get("ExitCode", 0))
        if code == NOT_STARTED and (missing := _said_by_launcher(folder)):
            return Ending("start_failed", self._now(), message=missing)
        note(folder, self._clock, f"ended with exit code {code}")
        return Ending(end, self._now(), code, None, _why(order, state, watch))

    def _now(self) -> float:
        return self._clock.now().timestamp()


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
    """What the launcher wrote where it found nothing to start; nothing where the job itself has ended so."""
    missing = str((read_json(folder.container) or {}).get("missing"))
    with open(folder.log("job"), "rb") as file:
        return missing if file.read(len(missing.encode()) + 2) == f"{missing}\n".encode() else ""


def _why(order: JobOrder, state: dict[str, Any], watch: _Watch) -> str:
    limit_bytes = _container(order).memory_bytes
    if state.get("OOMKilled"):
        limit = f", {limit_bytes / (1 << 30):.3g}GB" if limit_bytes else ""
        return f"it ran out of memory{limit}"
    if watch.engine_was_away and state.get("ExitCode"):
        return "the container engine of the machine started anew meanwhile"
    return str(state.get("Error") or "")


def _chown(folder: Path, uid: int, gid: int) -> None:
    """Give a folder away, where this user may; where not, let everybody into it."""
    is_root = os.geteuid() == 0
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in files)):
            if is_root:
                os.chown(path, uid, gid, follow_symlinks=False)
            elif not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode | (0o777 if path == parent else 0o666))


def _name(job_id: str) -> str:
    return f"dstack-{job_id}"


def _container(order: JobOrder) -> Container:
    assert order.container is not None
    return order.container


def _no_engine(error: EngineAway | EngineRefused) -> AgentRefused:
    return AgentRefused(f"The container engine of the machine does not answer: {error}", hint=NO_ENGINE_HINT)


def _refusal_of_start(container: Container, refusal: EngineRefused) -> AgentRefused:
    said = refusal.message
    if "unable to find user" in said or "unable to find group" in said or "no matching entries in passwd" in said:
        return AgentRefused(
            f"There is no user `{container.user}` in the image: {said}", hint="Name one of its users, or a number"
        )
    if "could not select device driver" in said:
        return AgentRefused(
            f"The container engine of the machine cannot give GPUs to containers: {said}",
            hint="Install NVIDIA's container toolkit on the machine",
        )
    if "no space left" in said:
        return AgentRefused(f"The disk of the machine is full: {said}", hint="Ask for more `disk`")
    return AgentRefused(f"The container could not be started: {said}")
