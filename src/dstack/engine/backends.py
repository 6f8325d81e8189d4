"""Follows the rows of backends: this server calls each backend that is on record, also if another server added it."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from dstack.backends import Drivers
from dstack.backends.base import Backend
from dstack.backends.registry import BackendRegistry, Verb
from dstack.domain.backends import BackendRecord
from dstack.domain.machines import MachineState
from dstack.errors import BackendInvalidCredentialsError, DatabaseUnavailable, DstackError
from dstack.kit.clock import Clock
from dstack.kit.signals import Signals
from dstack.kit.tasks import TaskGroup
from dstack.kit.vault import NoKey, Vault, WrongKey
from dstack.store import backends, objects
from dstack.store.db import Database

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 60.0
LOOK_AGAIN_AFTER = timedelta(minutes=1)


def config_of(record: BackendRecord, vault: Vault) -> Mapping[str, Any]:
    """Return a backend's configuration with its credentials.

    Raises:
        WrongKey, NoKey: they cannot be decrypted.
    """
    import json

    return {**record.config, **({} if record.sealed is None else json.loads(vault.open(record.sealed)))}


class BackendFollower:
    """Keeps a registry as the rows are, and deletes the rows of backends that are being removed."""

    def __init__(
        self, db: Database, registry: BackendRegistry, drivers: Drivers, vault: Vault, signals: Signals, clock: Clock
    ) -> None:
        self._db = db
        self._registry = registry
        self._drivers = drivers
        self._vault = vault
        self._signals = signals
        self._clock = clock
        self._tasks = TaskGroup()

    async def load(self) -> None:
        """Take over the rows as they are now."""
        await self._take_over(await self._db.read(backends.every))

    def start(self) -> None:
        """Follow the rows from now on."""
        self._tasks.keep("backends", self._follow)
        self._tasks.keep("removed backends", self._finish)

    async def close(self) -> None:
        """Stop following."""
        await self._tasks.close()

    async def _follow(self) -> None:
        with self._signals.subscribe(backends.CHANGED) as changed:
            while True:
                changed.take()
                try:
                    await self.load()
                except DatabaseUnavailable:
                    log.exception("The backends could not be read; retried in %s", LOOK_AGAIN_AFTER)
                    await self._clock.sleep(LOOK_AGAIN_AFTER)
                    continue
                await changed.wait()

    async def _take_over(self, records: list[BackendRecord]) -> None:
        known = {one.id: one for one in self._registry.records() if one.is_row}
        for record in records:
            if known.pop(record.id, None) != record:
                # A driver's module may import an SDK, which takes seconds.
                self._registry.add(record, *await asyncio.to_thread(self._driver_of, record))
        for id in known:
            self._registry.remove(id)

    def _driver_of(self, record: BackendRecord) -> tuple[Backend | None, str]:
        """Return a backend's driver; or None, and the reason why it cannot be made."""
        try:
            return self._drivers.make(config_of(record, self._vault)), ""
        except DstackError as error:
            fault = error.message
        except (WrongKey, NoKey, OSError):
            fault = "its credentials cannot be decrypted with this server's key; `dstack backend add` sets them again"
        except Exception as error:  # a driver's bug must keep no other backend from being used
            log.exception("The backend %s cannot be used", record.name)
            fault = f"its driver failed: {type(error).__name__}"
        log.error("The backend %s cannot be used: %s", record.name, fault)
        return None, fault

    async def _finish(self) -> None:
        """Delete the rows of backends that are being removed, once no machine can be left. Any server may."""
        with self._signals.subscribe(backends.CHANGED) as changed:
            while True:
                changed.take()
                closing = [one for one in self._registry.records() if one.closing_since is not None]
                for record in closing:
                    await self._finish_one(record)
                await (self._clock.sleep(LOOK_AGAIN_AFTER) if closing else changed.wait())

    async def _finish_one(self, record: BackendRecord) -> None:
        try:
            if await self._is_empty(record):
                await self._db.write(partial(backends.remove_if_over, id=record.id))
                log.info("The backend %s is removed", record.name)
        except DatabaseUnavailable as error:
            log.warning("The backend %s could not be deleted: %s", record.name, error)

    async def _is_empty(self, record: BackendRecord) -> bool:
        """Return whether no machine can be left: none is on record, and the backend lists none."""
        if not await self._db.read(lambda tx: backends.is_over(tx, record.id)):
            return False
        try:
            left = await self._registry.call(
                record.id, Verb.LOOK_UP, lambda backend: backend.look_up(), timeout_s=LOOK_TIMEOUT_S
            )
        except BackendInvalidCredentialsError as error:
            log.warning("The backend %s is deleted without a last look at its machines: %s", record.name, error)
            return True
        except (DstackError, OSError) as error:
            log.warning("The backend %s stays, since it does not list its machines: %s", record.name, error)
            return False
        except Exception:  # a driver's bug: machines may be left
            log.exception("The backend %s stays, since it does not list its machines", record.name)
            return False
        others = await self._db.read(objects.live_ids)  # they may be of another backend with the same account
        return all(one.state is MachineState.ENDED or one.key in others for one in left)
