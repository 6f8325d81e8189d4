"""Small programs that the agent runs for a job and waits for."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

SAID_BYTES_MAX = 64 << 10


async def run_command(
    argv: Sequence[str], folder: Path, env: Mapping[str, str], timeout_s: float | None = None
) -> tuple[int, str]:
    """Run a program to its end. It is killed, with all that it started, where the caller is cancelled meanwhile.

    Returns: its exit code, and the end of what it printed.

    Raises:
        FileNotFoundError: there is no such program.
        TimeoutError: it took longer than `timeout_s` seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await process.stdout.read(SAID_BYTES_MAX):
                said = (said + chunk)[-SAID_BYTES_MAX:]
            code = await process.wait()
    except (asyncio.CancelledError, TimeoutError):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    return code, said.decode(errors="replace")
