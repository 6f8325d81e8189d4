"""`python -m bench.proxy.plane PORT ACCESS_LOG [uvloop]`: a data plane without a server; standard input has its routes.

Each line is one message of the control socket. The process answers each with a line.
"""

import asyncio
import gc
import sys
from pathlib import Path

from dstack.protocol.proxy import Changes, Snapshot, from_server
from dstack.proxy.access_log import AccessLog
from dstack.proxy.clients import ClientConnection
from dstack.proxy.plane import DataPlane


async def main(port: int, log_path: Path) -> None:
    """Serve until standard input ends."""
    plane = DataPlane()
    loop = asyncio.get_running_loop()
    routes = asyncio.StreamReader(limit=64 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(routes), sys.stdin)
    await loop.create_server(lambda: ClientConnection(plane), "127.0.0.1", port, backlog=1024)
    plane.tasks.keep("watch", plane.watch)
    access_log = AccessLog(log_path)
    plane.on_answer = access_log.note
    plane.tasks.keep("access log", access_log.write)
    gc.freeze()
    while line := await routes.readline():
        message = from_server.decode(line)
        if isinstance(message, Snapshot):
            plane.routes.replace(message)
        elif isinstance(message, Changes):
            assert plane.routes.change(message)
        print("done", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        import uvloop

        uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
    else:
        asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
