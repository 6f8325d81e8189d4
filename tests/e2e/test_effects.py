"""The configurations that run: the effect of each field, as its job sees it.

They and what is expected of them stand in `tests/unit/spec/configurations/running.yml`. All are submitted together.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dstack.api import Client, DevEnvironment, Run, Task
from dstack.errors import NoCapacityError
from dstack.spec.parse import parse_configuration
from tests.e2e.home import Home
from tests.e2e.test_attach import get
from tests.e2e.test_container_fields import NVIDIA
from tests.engines import SHELL_IMAGE, DockerEngine, Registry
from tests.machine import REFUSALS
from tests.unit.spec.published import Case, read_cases

pytestmark = pytest.mark.server("shared", engine="engine")

CASES = [case for case in read_cases() if case.shows]
READERS = 8
"""As many runs are followed at a time, in the order in which they were submitted."""


@pytest.fixture
def images(engine: DockerEngine) -> Iterator[None]:
    """The default images, one with variables of its own, and one in a registry that lets only one user in."""
    registry, private = engine.serve_registry(), f"{Registry.host}/team/private:1"
    lines = {name: f"ENV NAME={name}" for name in ("python:3.12", "python:2.7", NVIDIA)}
    lines |= {"test/effects:1": "ENV A=image B=image", private: "ENV A=private"}
    container = engine.docker("create", SHELL_IMAGE, "true").stdout.strip()
    for name, line in lines.items():
        engine.docker("commit", "--change", line, container, name)
    engine.docker("rm", container)
    engine.docker("push", private)
    engine.docker("rmi", private)
    yield
    registry.stop()


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client on a machine that has what the configurations name."""
    home.write("configs/script.sh", "#!/bin/sh\necho from the script\n").chmod(0o755)
    home.write("shared/a.txt", "shared\n")
    home.write(".netrc", "machine example.com\n")
    monkeypatch.setenv("SUBMITTERS", "mine")
    client = home.client()
    client.secrets.set("EFFECT", "the-secret")
    client.secrets.set("REGISTRY", Registry.password)
    return client


def submitted(case: Case, home: Home, client: Client) -> Run:
    """The run of a configuration."""
    configuration = parse_configuration(case.at(home.path, home.cpus()), "x.yml")
    assert isinstance(configuration, Task | DevEnvironment)
    return client.runs.submit(configuration, configuration_path=home.path / "configs/x.yml", reserve_ports=False)


@pytest.mark.usefixtures("images")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # old spellings are among them
def test_every_field_has_its_effect(home: Home, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    runs = [(case, submitted(case, home, client)) for case in CASES if "prints" in case.said]
    (home.path / "submitted").touch()
    with ThreadPoolExecutor(READERS) as readers:
        observed = list(readers.map(lambda one: observe(*one), runs))
    expected = [(case.fact("prints"), case.ends, case.fact("answers")) for case, _ in runs]
    differing = {
        case.title: (f"seen {seen}", f"expected {wanted}", run.detail)
        for (case, run), seen, wanted in zip(runs, observed, expected, strict=True)
        if seen != wanted and not is_refused(case, run)
    }
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    assert not differing, "\n".join(f"{title}: {what}" for title, what in differing.items())


def observe(case: Case, run: Run) -> tuple[list[str], dict[str, Any], dict[int, str] | None]:
    """Follow a run to its end, and return what it printed, how it ended, and what its ports said."""
    text, answers = b"", None
    last_word = (case.fact("stopped") or "").encode()
    for chunk in run.logs():
        text += chunk
        if last_word and last_word in text:
            run.stop()
            last_word = b""
        if "answers" in case.said and answers is None and b"listening" in text:
            answers = asked(run)
            run.stop(abort=True)
    for _ in run.changes():
        pass
    ended = {"status": run.status.value, "exit_code": run.exit_code, "reason": str(run.reason)}
    return text.decode().splitlines(), {name: ended[name] for name in case.ends}, answers


def is_refused(case: Case, run: Run) -> bool:
    """Whether this machine does not allow what the configuration asks for, as inside a container."""
    return "privileged" in case.shows and any(words in run.detail.lower() for words in REFUSALS)


def asked(run: Run) -> dict[int, str]:
    """What the run's ports say while it is attached."""
    run.attach()
    try:
        return {port: get(local).decode().strip() for port, local in (run.ports or {}).items()}
    finally:
        run.detach()


def test_field_that_no_machine_here_fits_is_the_reason(home: Home, client: Client) -> None:
    for case in CASES:
        if "nowhere" in case.said:
            with pytest.raises(NoCapacityError, match=case.fact("nowhere")):
                submitted(case, home, client)
