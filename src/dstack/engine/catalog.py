"""What is on sale now: the offers of all backends, asked for when needed and remembered for a while."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from dstack.backends.base import Backend
from dstack.backends.threads import Backends
from dstack.domain.offers import Offer
from dstack.errors import DstackError
from dstack.kit.clock import Clock

log = logging.getLogger(__name__)

BACKEND_TIMEOUT_S = 60.0
SILENT = "the backend does not answer"
HIDDEN = "the server's own machine is not used, since the server has several users (see `DSTACK_LOCAL_BACKEND`)"


class Catalog:
    """The latest offers of each backend; a backend that does not answer keeps its last ones."""

    def __init__(self, backends: Backends, clock: Clock) -> None:
        self._backends = backends
        self._clock = clock
        self._offers: dict[str, Sequence[Offer]] = {}
        self._asked_at: dict[str, datetime] = {}
        self._asking = asyncio.Lock()
        self.silent: frozenset[str] = frozenset()
        """The backends that failed to answer their last question. One that is being asked keeps what it was."""
        self.hidden: frozenset[str] = frozenset()
        """The backends that new jobs cannot use."""

    def hide(self, name: str, *, is_hidden: bool = True) -> None:
        """Offer a backend no more, or again. Jobs that run there go on."""
        self.hidden = self.hidden | {name} if is_hidden else self.hidden - {name}

    @property
    def absent(self) -> Mapping[str, str]:
        """The backends whose machines may be missing among the offers, each with the reason."""
        return {**dict.fromkeys(self.silent, SILENT), **self.closed}

    @property
    def closed(self) -> Mapping[str, str]:
        """The backends whose machines, new and existing ones, take no new jobs, each with the reason."""
        return dict.fromkeys(self.hidden, HIDDEN)

    def snapshot(self) -> Sequence[Offer]:
        """What is known now."""
        known = list(self._offers.items())
        return [offer for name, offers in known if name not in self.hidden for offer in offers]

    async def offers(self) -> Sequence[Offer]:
        """What is on sale; nothing is older than its backend says it may be."""
        async with self._asking:
            await asyncio.gather(*(self._ask(name) for name in self._backends if not self._is_fresh(name)))
        return self.snapshot()

    def _is_fresh(self, name: str) -> bool:
        at = self._asked_at.get(name)
        return at is not None and self._clock.now() - at <= self._backends.offers_fresh_for(name)

    async def _ask(self, name: str) -> None:
        try:
            self._offers[name] = await self._backends.call(name, _offers_of, timeout_s=BACKEND_TIMEOUT_S)
            self._asked_at[name] = self._clock.now()
            self.silent -= {name}
        except (DstackError, OSError) as error:
            self.silent |= {name}
            log.warning("The backend %s does not list its offers: %s", name, error)
        except Exception:  # a driver's bug must not keep the other backends from being used
            self.silent |= {name}
            log.exception("The backend %s does not list its offers", name)


def _offers_of(backend: Backend) -> Sequence[Offer]:
    return backend.offers()
