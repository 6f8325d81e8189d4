"""`python -m bench.engine.server FOLDER INSTANCES READY_FD`: the real server, with a made-up cloud."""

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.engine.fleet import BACKEND, agents_socket, offer_of, own_socket
from dstack.backends.base import Abilities, Address, Backend, LaunchRequest, Machine, MachineState
from dstack.domain.objects import Instance
from dstack.domain.offers import Offer
from dstack.hosts.inbox import Connector
from dstack.protocol.frames import LINE_BYTES_MAX
from dstack.server.app import serve
from dstack.server.parts import Outside, outside_of
from dstack.server.settings import Settings


class Cloud(Backend):
    """Sells as many machines as are wished for, at once."""

    abilities = Abilities(locate_every=None)

    def __init__(self, data_dir: Path, instances: int = 0) -> None:
        self._offer = offer_of(instances)

    def check(self) -> None:
        """There are no credentials."""

    def offers(self) -> Sequence[Offer]:
        """The one thing on sale."""
        return [self._offer]

    def launch(self, request: LaunchRequest) -> Machine:
        """The machine is there already."""
        return _machine(request.key)

    def look_up(self, key: str | None = None) -> Sequence[Machine]:
        """Nothing is remembered."""
        return [] if key is None else [_machine(key)]

    def terminate(self, key: str, keep: str | None = None) -> bool:
        """Gone."""
        return True


def _machine(key: str) -> Machine:
    return Machine(key, key, MachineState.RUNNING, Address("localhost"))


@dataclass(frozen=True, slots=True)
class AgentConnector:
    """The way to a made-up agent."""

    folder: Path
    key: str

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """A fresh connection over a real socket."""
        own = own_socket(self.folder, self.key)
        place = own if own.exists() else agents_socket(self.folder)
        reader, writer = await asyncio.open_unix_connection(place, limit=LINE_BYTES_MAX)
        writer.write(f"{self.key}\n".encode())
        return reader, writer


def main(folder: Path, instances: int, ready_fd: int) -> int:
    """Serve with everything in one folder."""

    def connector_for(instance: Instance) -> Connector:
        return AgentConnector(folder, instance.id)

    def outside(settings: Settings) -> Outside:
        cloud = Cloud(folder, instances)
        return replace(outside_of(settings), backends={BACKEND: cloud}, connector_for=connector_for)

    return serve("127.0.0.1", 0, folder / "server", embedded=False, ready_fd=ready_fd, outside_of=outside)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
