"""`python -m bench.proxy.replica PORT`: a replica that streams, 50 tokens a second for each of its clients."""

import asyncio
import sys

TOKENS_PER_S = 50
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "token %06d"}}]}\n\n'


class Stream(asyncio.Protocol):
    """One stream: it begins with a request, and ends with its client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.number = 0

    def data_received(self, data: bytes) -> None:
        self.transport.write(HEAD)
        self._send()

    def _send(self) -> None:
        if not self.transport.is_closing():
            event = EVENT % self.number
            self.number += 1
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            asyncio.get_running_loop().call_later(1 / TOKENS_PER_S, self._send)


async def main(port: int) -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
