"""`python -m bench.proxy.peer PORT REPLICA STREAMS`: the way in which a FastAPI application is a proxy, with httpx."""

import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()
client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256))
ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "host"}


@app.api_route("/{path:path}", methods=["GET", "POST"])
async def forward(path: str, request: Request) -> StreamingResponse:
    """Forward a request, and stream its answer."""
    port = int(sys.argv[3] if path.startswith("stream") else sys.argv[2])
    headers = [(name, value) for name, value in request.headers.items() if name not in ONE_HOP]
    url = f"http://127.0.0.1:{port}/{path}"
    asked = client.build_request(request.method, url, headers=headers, content=await request.body())
    answer = await client.send(asked, stream=True)

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_raw():
                yield part
        finally:
            await answer.aclose()

    kept = {name: value for name, value in answer.headers.items() if name not in ONE_HOP}
    return StreamingResponse(parts(), answer.status_code, kept)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False, backlog=1024)
