"""What `dstack apply` makes of files, options and plans."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from dstack.api import Client, LocalRepo, RemoteRepo, RunPlan, Task
from dstack.api._submissions import Draft
from dstack.cli import options
from dstack.cli.commands import apply
from dstack.cli.main import parser
from dstack.engine.catalog import HIDDEN
from dstack.errors import NoCapacityError
from dstack.protocol.requests import SubmitRun
from dstack.protocol.views import ChangeView, OfferView, PlanView
from dstack.spec.mounts import FileMapping
from dstack.spec.parse import to_mapping
from dstack.spec.reading import read

from .conftest import Cli
from .test_following import view

OFFER = OfferView(
    backend="local",
    region="-",
    instance_type="laptop",
    resources="4xCPU, 8GB",
    spot=False,
    price=0.0,
    availability="available",
)


def changed(task: Task, *said: str) -> dict[str, object]:
    changes = options.changes_of(parser().parse_args(["apply", *said]))
    return read(to_mapping(task), changes, [], None).configuration


@pytest.mark.parametrize(
    ("said", "field", "expected"),
    [
        (("-b", "local", "-b", "aws"), "backends", ["local", "aws"]),
        (("-r", "eu"), "regions", ["eu"]),
        (("--spot",), "spot_policy", "spot"),
        (("--on-demand",), "spot_policy", "on-demand"),
        (("--max-price", "1.5"), "max_price", 1.5),
        (("-e", "A=2", "-e", "B=", "-e", "C=x=y"), "env", {"A": "2", "B": "", "C": "x=y"}),
    ],
)
def test_an_option_takes_the_place_of_a_field(said: tuple[str, ...], field: str, expected: object) -> None:
    assert changed(Task(commands=["x"], regions=["us"]), *said)[field] == expected


@pytest.mark.parametrize(
    ("fields", "said", "expected"),
    [
        ({"termination_policy": "dont-destroy"}, ("--idle-duration", "5m"), {"idle_duration": "5m"}),
        ({"termination_idle_time": "5m"}, ("--idle-duration", "1m"), {"idle_duration": "1m"}),
        ({"pool_name": "default"}, ("--fleet", "default"), {"fleets": ["default"]}),
        ({"retry_policy": True}, ("--no-retry",), {"retry": None}),
    ],
)
def test_an_option_takes_the_place_of_an_old_spelling(
    fields: dict[str, Any], said: tuple[str, ...], expected: dict[str, object]
) -> None:
    assert changed(Task(commands=["x"], **fields), *said) == {"type": "task", "commands": ["x"], **expected}


def test_a_variable_is_added_to_those_of_the_file() -> None:
    task = Task(commands=["x"], env={"A": "1", "B": "1"})
    assert changed(task, "-e", "B=2")["env"] == {"A": "1", "B": "2"}


def test_what_was_not_said_stays_unsaid() -> None:
    assert set(changed(Task(commands=["x"]))) == {"type", "commands"}


def test_a_missing_file_says_how_to_name_one(cli: Cli) -> None:
    assert cli("apply", "-y") == (
        "exit 1\n"
        "stderr:\n"
        "error: There is no file `.dstack.yml`\n"
        "hint: Name the configuration with `-f FILE`; `-f -` reads it from stdin\n"
    )


def test_a_missing_file_is_answered_with_a_few_that_are_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "task.dstack.yml").touch()
    hint = "hint: Name the configuration with `-f FILE`, such as {}; `-f -` reads it from stdin\n"
    assert cli("apply").endswith(hint.format("`task.dstack.yml`"))
    for number in range(9):
        (tmp_path / f"{number}.dstack.yml").touch()
    named = ", ".join(f"`{number}.dstack.yml`" for number in range(5))
    assert cli("apply", "-f", "tsk.yml").endswith(hint.format(named))


@pytest.mark.parametrize(
    "said", [("a.yml",), ("-f", "a.yml"), ("-y", "a.yml", "-d"), ("-y", "-n", "one", "a.yml"), ("a.yml", "-e", "A")]
)
def test_the_file_may_be_named_with_or_without_its_option(said: tuple[str, ...]) -> None:
    assert parser().parse_args(["apply", *said]).file == "a.yml"
    assert parser().parse_args(["apply"]).file == ".dstack.yml"


def test_only_one_file_may_be_named(cli: Cli) -> None:
    assert "not allowed with argument" in cli("apply", "a.yml", "-f", "b.yml")


def test_a_folder_instead_of_a_file_is_told(cli: Cli, tmp_path: Path) -> None:
    assert cli("apply", "-y", "-f", str(tmp_path)).startswith(f"exit 1\nstderr:\nerror: `{tmp_path}` cannot be read")


def test_a_typo_names_file_line_and_the_nearest_field(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".dstack.yml").write_text("type: task\ncomands: [a]\n")
    text = cli("apply", "-y")
    assert text.startswith("exit 1\n") and ".dstack.yml:2" in text and "`commands`" in text and "Traceback" not in text


def plan(**changes: object) -> RunPlan:
    view = PlanView(
        project="main",
        user="me",
        run_name="hello",
        spec={},
        offers=[OFFER],
        offers_total=1,
        max_price=0.0,
        refusals=[],
        resources="2..xCPU",
    )
    draft = Draft(SubmitRun(configuration={"type": "task", "max_price": 2.5}, configuration_path="a.dstack.yml"), {})
    return RunPlan(draft, None, structs.replace(view, **changes), [])


def test_a_plan_shows_properties_and_offers() -> None:
    lines = apply.plan_text(plan()).splitlines()
    assert lines[0] == "Project        main"
    assert lines[2] == "Configuration  a.dstack.yml"
    assert "Max price      $2.5" in lines
    assert lines[-2:] == [
        "1  local    -       laptop    4xCPU, 8GB  no    $0",
        "Shown 1 of 1 offer",
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "; not set, may be less: CPU, memory, disk"),
        ({"cpu": 4, "memory": "16GB"}, "; not set, may be less: disk"),
        ({"cpu": 4, "memory": "16GB", "disk": None}, ""),
    ],
)
def test_a_plan_says_of_what_nothing_was_asked(asked: dict[str, object], said: str) -> None:
    one = plan(resources="4xCPU, 16GB")
    one.draft.request.configuration["resources"] = asked
    assert f"Resources      4xCPU, 16GB{said}" in apply.plan_text(one).splitlines()


def test_plan_of_a_server_that_does_not_write_the_requirements_has_no_line_of_them() -> None:
    assert "Resources" not in apply.plan_text(plan(resources=""))


def test_a_plan_names_the_files_that_go_along_or_the_command_that_adds_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a" * 1500)
    (tmp_path / "b.py").write_text("b")
    named = Draft(plan().draft.request, {}, [FileMapping(local_path="b.py", path="b.py")], tmp_path)
    url = "https://example.com/a/b"

    def line(one: RunPlan) -> str:
        return next(line for line in apply.plan_text(one).splitlines() if line.startswith("Files "))

    assert line(plan()) == "Files          none; run `dstack init` to send this folder's files"
    assert line(replace(plan(), repo=LocalRepo.from_dir(tmp_path))) == f"Files          2 files (1.5 KB) of {tmp_path}"
    assert line(replace(plan(), repo=RemoteRepo(url))) == f"Files          {url} at its HEAD"
    assert line(replace(plan(), repo=RemoteRepo(url, "v1"))) == f"Files          {url} at v1"
    assert line(replace(plan(), draft=named)) == "Files          1 file (1 bytes) named in `files`"


@pytest.mark.parametrize(("said", "takes_ports"), [([], True), (["-d"], False)])
def test_only_a_run_that_is_followed_takes_local_ports(said: list[str], takes_ports: bool) -> None:
    taken: list[bool] = []

    def exec_plan(plan: RunPlan, *, reserve_ports: bool, progress: object) -> None:
        taken.append(reserve_ports)
        raise NoCapacityError("enough is known")

    client = SimpleNamespace(runs=SimpleNamespace(exec_plan=exec_plan), when_away=lambda tell: None)
    with pytest.raises(NoCapacityError):
        apply._submit(cast(Client, client), plan(), parser().parse_args(["apply", *said]))
    assert taken == [takes_ports]


def test_a_plan_says_that_the_run_would_wait() -> None:
    assert apply.plan_text(plan(waits="earlier runs wait too")).endswith(
        "\nThe run would wait in the queue: earlier runs wait too\n"
    )


def test_a_plan_without_an_offer_tells_why() -> None:
    refusals = ["`local` has 4 CPUs, and 64 were asked for"]
    with pytest.raises(NoCapacityError, match="No machine fits: `local` has 4 CPUs, and 64 were asked for"):
        apply.check(plan(offers=[], offers_total=0, refusals=refusals))


ENGINE = "needs a container, and there is no container engine (no Docker or Podman answers on this machine)"


@pytest.mark.parametrize(
    ("refusal", "hint"),
    [
        (
            HIDDEN,
            "If all users trust each other, start the server with `DSTACK_LOCAL_BACKEND=1`",
        ),
        ("no backend has the machines for 5 nodes at once", "Use fewer or smaller nodes"),
        ("memory: asked 900TB, has 23.5GB", "Lower the requirements, or leave out the fields that do not fit"),
        (f"`image: alpine` {ENGINE}", "Start Docker or Podman on the machine"),
        (f"`python: 3.10` (the machine has 3.9) {ENGINE}", "Install that Python, with its `venv`. Or: Start Docker"),
        (
            f"`working_dir: /nonexistent` {ENGINE}",
            "An absolute `working_dir` is a folder in a container (`image`). "
            "Write a folder in the run's files without the leading `/`. Or: Start Docker",
        ),
    ],
)
def test_the_hint_of_a_refusal_names_only_what_can_be_done(refusal: str, hint: str) -> None:
    with pytest.raises(NoCapacityError) as caught:
        apply.check(plan(offers=[], offers_total=0, refusals=[f"local (2xCPU): {refusal}"]))
    assert caught.value.hint is not None and caught.value.hint.startswith(hint)


def test_several_misfits_are_listed_with_the_nearest_first() -> None:
    refusals = ["local (2xCPU): cpu: asked 4, has 2", "aws m5 (8xCPU): gpu: asked 1, has none"]
    with pytest.raises(NoCapacityError) as caught:
        apply.check(plan(offers=[], offers_total=0, refusals=refusals))
    assert caught.value.message == "No machine fits. The nearest:\n  " + "\n  ".join(refusals)


def test_plan_without_an_offer_shows_what_was_asked() -> None:
    lines = apply.plan_text(plan(offers=[], offers_total=0, resources="2xCPU")).splitlines()
    assert any(line.startswith("Resources ") for line in lines) and not any("offers" in line for line in lines)


def test_unchanged_active_run_names_the_command_that_follows_it() -> None:
    current = view("running")
    assert apply.changes_text(plan(current=current)) == (
        "The run `hello` is already running with this configuration; `dstack attach --logs hello` follows it"
    )


SERVICE = {"type": "service", "port": 80, "commands": ["x"]}


def service_plan(replicas: int | str, *fields: str, before: int = 3) -> RunPlan:
    """Return the plan of a change to an active service."""
    current = structs.replace(view("running"), type="service", replicas_asked=before)
    request = SubmitRun(configuration={**SERVICE, "replicas": replicas})
    changes = [
        ChangeView(field=one, old="1", new="2", in_place=one == "replicas", by_rollout=one not in ("replicas", "type"))
        for one in fields
    ]
    made = plan(current=current)
    return replace(made, draft=replace(made.draft, request=request), changes=changes)


@pytest.mark.parametrize(
    ("of", "force", "hows", "effect"),
    [
        (service_plan(3, "image"), False, ["replica by replica"], "3 replicas are replaced one by one"),
        (service_plan(3, "image"), True, ["at once"], "3 replicas are replaced at once"),
        (service_plan(4, "replicas"), False, ["in place"], "1 replica is added"),
        (service_plan(1, "replicas"), False, ["in place"], "2 replicas end once they have answered all requests"),
        (
            service_plan(2, "image", "replicas"),
            False,
            ["replica by replica", "in place"],
            "3 replicas are replaced one by one; 1 replica ends once it has answered all requests",
        ),
        (service_plan(1, "image", before=1), False, ["replica by replica"], "1 replica is replaced one by one"),
        (service_plan("1..4", "replicas"), False, ["in place"], None),
        (service_plan("5..9", "replicas"), False, ["in place"], "2 replicas are added"),
        (service_plan("0..2", "replicas"), False, ["in place"], "1 replica ends once it has answered all requests"),
        (service_plan(3, "image", "type"), False, ["replica by replica", "by a restart"], None),
    ],
)
def test_changes_of_a_service_show_what_becomes_of_its_replicas(
    of: RunPlan, force: bool, hows: list[str], effect: str | None
) -> None:
    _, header, *lines = filter(None, apply.changes_text(of, force=force).splitlines())
    assert header.split() == list(apply.CHANGES)
    assert [line.split("2", 1)[1].strip() for line in lines[: len(hows)]] == hows
    assert lines[len(hows) :] == ([] if effect is None else [effect])


def test_plan_names_the_range_of_a_service_and_its_rule() -> None:
    scaling = {"replicas": "0..4", "scaling": {"metric": "rps", "target": 10.0}}
    one = plan()
    one = replace(one, draft=replace(one.draft, request=SubmitRun(configuration={**SERVICE, **scaling})))
    assert "Replicas       0..4, by requests/s, target 10 each" in apply.plan_text(one).splitlines()
    assert "Replicas" not in apply.plan_text(service_plan("2"))
