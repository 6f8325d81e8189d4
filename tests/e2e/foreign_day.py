"""What somebody does in a day with a server elsewhere, as a program for `tests/foreign.py`: prints what came of it."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from dstack.api import Client, Task
from dstack.api.aio import Client as AsyncClient
from dstack.cli.main import main


def command(*args: str, input: str = "") -> dict[str, Any]:
    """Run `dstack ARGS` in this process, with streams that are files."""
    with contextlib.ExitStack() as files:
        folder = files.enter_context(tempfile.TemporaryDirectory())
        given, *shown = [files.enter_context(Path(folder, name).open("w+")) for name in ("in", "out", "err")]
        given.write(input)
        given.seek(0)
        former = [(number, os.dup(number)) for number in range(3)]
        for number, file in enumerate((given, *shown)):
            os.dup2(file.fileno(), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        try:
            code = main(args)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, before in former:
                os.dup2(before, number)
                os.close(before)
        for file in shown:
            file.seek(0)
        out, err = (file.read() for file in shown)
        return {"code": code, "out": out, "err": err}


def attached(name: str) -> dict[str, Any]:
    """Attach twice to a run: once, and as another would who comes second."""
    first, second = Client.from_config(), Client.from_config()
    run, joined = first.runs.get(name), second.runs.get(name)
    assert run is not None and joined is not None
    is_in = [run.attach(), joined.attach()]
    ports = run.ports or {}
    (local,) = ports.values()
    with urllib.request.urlopen(f"http://127.0.0.1:{local}/", timeout=60) as response:
        said = response.read().decode()
    text = {"is_in": is_in, "same": ports == joined.ports, "said": said, "ssh": Path.home().joinpath(SSH).read_text()}
    joined.detach()
    run.detach()
    text["left"] = Path.home().joinpath(SSH).read_text()
    text["claims"] = [path.name for path in Path.home().joinpath(".dstack/attached").glob("*.json")]
    first.close()
    second.close()
    return text


async def asked() -> list[str]:
    """Submit and read by the asyncio API."""
    async with AsyncClient.from_config() as client:
        run = await client.runs.submit(Task(commands=["echo two"]), run_name="two")
        return [chunk.decode() async for chunk in run.logs()]


def live(name: str, url: str, token: str) -> dict[str, Any]:
    """All of it."""
    Client.from_config(name, url, token).close()
    day = {
        "add": command("project", "add", "--name", name, "--url", url, input=token),
        "ps": command("ps"),
        "offer": command("offer"),
        "apply": command("apply", "-y", "-f", "run.yml", "--repo", "."),
        "logs": command("logs", "day"),
        "serve": command("apply", "-y", "-d", "-f", "web.yml"),
        "begun": next(_run("web").logs()).decode(),
        "exec": command("exec", "web", "--", "sh", "-c", "cat; exit 3", input="for the job\n"),
        "killed": command("exec", "web", "--", "sh", "-c", "kill -9 $$"),
        "attached": attached("web"),
        "event": command("event"),
        "asked": asyncio.run(asked()),
        "idle": command("apply", "-y", "-d", "-f", "idle.yml"),
        "stop": command("stop", "-y", "idle"),
    }
    day["stopped"] = [one.status.value for one in _run("idle").changes()][-1]
    return day


def _run(name: str) -> Any:
    run = Client.from_config().runs.get(name)
    assert run is not None
    return run


SSH = ".dstack/ssh/config"

if __name__ == "__main__":
    print(json.dumps(live(*sys.argv[1:])))
