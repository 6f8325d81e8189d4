"""A service as its user sees it: `docs/services.md` as written, the URL over restarts of the server, and failures."""

import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request

import pytest

from dstack.api import Run
from tests.architecture.sources import ROOT
from tests.e2e.home import Home, wait_for

PAGE = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")


def block(language: str, part: str) -> str:
    """Return the first block of code of a language that has this part."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if part in text)


def ask(url: str, token: str | None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def requests_of(run: Run) -> int:
    run.refresh()
    assert run.view.service is not None and run.view.service.traffic is not None
    return run.view.service.traffic.requests


@pytest.mark.server("own")
def test_web_app_of_the_page_keeps_its_url_while_servers_of_the_background_come_and_go(home: Home) -> None:
    home.write("app.py", block("python", "HTTPServer"))
    home.write("web.dstack.yml", block("yaml", "name: web"))
    assert home.cli("init").returncode == 0
    done = home.cli("apply", "-f", "web.dstack.yml", "-y")
    assert done.returncode == 0, done.stderr
    assert "web: 2 of 2 replicas ready\n" in done.stderr
    found = re.fullmatch(r"URL    (http://127\.0\.0\.1:\d+/proxy/services/main/web/)\n", done.stdout)
    assert found is not None, done.stdout
    url = found[1]
    token = json.loads((home.data / "server.json").read_text())["token"]
    assert ask(url, None)[0] == 401
    assert ask(url, token) == (200, "You are at /proxy/services/main/web/\n")
    run = home.client().runs.get("web")
    assert run is not None and (run.service_url, run.service_model) == (url, None)
    wait_for("the traffic", lambda: requests_of(run) == 1)

    pid = home.server_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert ask(url, token)[0] == 200, "requests go on without a server"
    assert url in home.cli("ps").stdout, "the command has started a server at the same address"
    wait_for("the traffic of both", lambda: requests_of(run) == 2)
    table = home.cli("ps", "-v")
    assert "REPLICAS" in table.stdout and " 2/2 " in table.stdout and "\x1b" not in table.stdout
    metrics = json.loads(home.cli("metrics", "web", "--json").stdout)
    assert len(metrics["jobs"]) == 2 and metrics["traffic"]["points"] is not None
    program = home.run_program(sys.executable, "-c", block("python", "run.service_url"))
    assert (program.returncode, program.stdout) == (0, f"{url} 2 of 2\n"), program


@pytest.mark.server("shared")
def test_service_that_never_gets_ready_fails_with_its_reason(home: Home) -> None:
    home.write("bad.dstack.yml", "type: service\nname: bad\nport: 8000\ncommands: [echo no such model, exit 3]\n")
    done = home.cli("apply", "-f", "bad.dstack.yml", "-y")
    assert done.returncode == 1
    assert done.stdout == "no such model\n", done
    assert "bad: failed (exit code 3)" in done.stderr
    detached = home.cli("apply", "-f", "bad.dstack.yml", "-y", "-d")
    assert detached.returncode == 0
    assert detached.stdout.startswith("URL    http://127.0.0.1:")


@pytest.mark.server("shared")
def test_service_of_the_page_that_begins_without_replicas_starts_one_for_its_first_request(home: Home) -> None:
    home.write("app.py", block("python", "HTTPServer"))
    home.write("elastic.dstack.yml", block("yaml", "name: elastic"))
    assert home.cli("init").returncode == 0
    done = home.cli("apply", "-f", "elastic.dstack.yml", "-y")
    assert (done.returncode, done.stdout.endswith("/elastic/\n")) == (0, True), done
    for line in block("console", "elastic.dstack.yml").splitlines():
        assert line.startswith(("$", "…", "URL")) or f"{line}\n" in done.stderr, (line, done.stderr)
    table = home.cli("ps", "-v").stdout
    assert " 0 of 0..4 " in table and "(the next request starts a replica)" in table
    assert " 0 replicas" in table and "range 0..4, by requests/s, target 10 each" in table
    assert "0 replica-hours, $0 since its submission" in table
    refused = home.cli("exec", "elastic", "--", "true")
    assert refused.returncode == 1
    assert "No replica of `elastic` runs: the next request starts a replica" in refused.stderr
    program = home.run_program(sys.executable, "-c", block("python", "service.scaling"))
    assert (program.returncode, program.stdout) == (0, "0 4 0.0\n"), program
    code, answer = ask(done.stdout.split()[-1], None)
    assert code == 200 and answer.endswith("/elastic/\n"), answer
    assert " 1/1 of 0..4 " in home.cli("ps", "-v").stdout
    assert "elastic: replicas 0 → 1: 1 request waits for a replica\n" in home.cli("event", "--run", "elastic").stdout
    assert home.cli("stop", "elastic", "-y").returncode == 0
