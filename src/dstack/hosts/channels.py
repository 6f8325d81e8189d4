"""Channels of a server to ports of jobs: a stream each, over any way to the agent's unix socket."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from dstack.kit.channels import LINE_BYTES_MAX, OPEN_TIMEOUT_S, check_answer, question

Connect: TypeAlias = Callable[[], Awaitable[tuple[StreamReader, StreamWriter]]]
"""Connects to the unix socket of an agent's channels."""


def local(socket_path: Path) -> Connect:
    """Return the way to an agent on this machine."""
    return partial(asyncio.open_unix_connection, socket_path)


async def open_channel(connect: Connect, job_id: str, port: int) -> tuple[StreamReader, StreamWriter]:
    """Return a stream to a port of a job.

    Raises:
        ChannelRefused: the agent answers, and the port does not.
        OSError: the agent does not answer.
    """
    async with asyncio.timeout(OPEN_TIMEOUT_S):
        reader, writer = await connect()
        try:
            writer.write(question(job_id, port))
            line = await reader.readline()
            if len(line) > LINE_BYTES_MAX or not line.endswith(b"\n"):
                raise ConnectionError("the agent closed the channel before it was open")
            check_answer(line)
        except BaseException as error:
            writer.close()
            if isinstance(error, ValueError):  # of a line without end
                raise ConnectionError("the agent answered with a line without end") from None
            raise
    return reader, writer
