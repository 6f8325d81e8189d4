"""The means of acting: backends, links to hosts, the record, and the key to secrets."""

from dataclasses import dataclass, field

from dstack.backends.registry import BackendRegistry
from dstack.domain.objects import Instance
from dstack.engine.links import Links
from dstack.errors import BackendError, HostUnreachable
from dstack.hosts.link import Link
from dstack.kit.vault import Vault
from dstack.store import objects
from dstack.store.db import Database


@dataclass(frozen=True, slots=True)
class Means:
    """Everything that a performer uses."""

    db: Database
    backends: BackendRegistry
    links: Links
    vault: Vault
    launching: set[str] = field(default_factory=set, init=False)
    """The instances whose launch has not returned to a thread of this server, though its time may have expired."""

    async def instance(self, id: str) -> Instance:
        """Return an instance as it is on record now.

        Raises:
            BackendError: it is not on record.
        """
        instance = await self.db.recall(lambda tx: objects.find_instance(tx, id))
        if instance is None:
            raise BackendError(f"The instance `{id}` is not on record")
        return instance

    async def link_to(self, instance_id: str) -> Link | None:
        """Return the link to an instance; None where the machine has ended for good.

        Raises:
            HostUnreachable: the machine exists, and there is no link to it.
        """
        link = self.links.find(instance_id)
        if link is None and (await self.instance(instance_id)).finished_at is None:
            raise HostUnreachable(f"There is no link to instance `{instance_id}`")
        return link
