"""Configurations as people use them: secrets, files, profiles, changes of active runs, old spellings, every command."""

import json
import socket
import stat

import jsonschema
import pytest
import yaml

from dstack.api import DevEnvironment, Service, Task
from dstack.errors import InvalidRequestError, ResourceExistsError
from tests.e2e.home import Home, wait_for
from tests.e2e.tasks import refreshed

pytestmark = pytest.mark.server("shared")


@pytest.mark.server("own")  # looks at all files
def test_a_secret_reaches_the_job_and_is_nowhere_else(home: Home) -> None:
    assert home.cli("secret", "set", "TOKEN", input="s3cret-value\n").returncode == 0
    home.write("t.yml", 'type: task\nname: one\nenv: {A: "<${{ secrets.TOKEN }}>"}\ncommands: ["echo $A | wc -c"]\n')
    done = home.cli("apply", "-f", "t.yml", "-y")
    assert (done.returncode, done.stdout.strip()) == (0, str(len("<s3cret-value>") + 1))
    shown = [home.cli("ps", "-a", "--json").stdout, home.cli("event").stdout, home.cli("secret", "list").stdout]
    assert all("s3cret" not in text for text in [*shown, done.stderr])
    assert home.cli("secret", "get", "TOKEN").stdout == "s3cret-value\n"
    assert [one["name"] for one in json.loads(home.cli("secret", "list", "--json").stdout)] == ["TOKEN"]
    for path in home.data.rglob("*"):
        if path.is_file() and path.parent.name != "jobs":
            assert b"s3cret-value" not in path.read_bytes(), path
    key = home.data / "encryption.key"
    assert not key.exists() or stat.S_IMODE(key.stat().st_mode) == 0o600
    assert home.cli("secret", "delete", "TOKEN").returncode == 0
    missing = home.cli("apply", "-f", "t.yml", "-y")
    assert missing.returncode == 1 and missing.stderr.endswith(
        "error: There is no secret `TOKEN` in the project `main`\nhint: `dstack secret set TOKEN` first\n"
    )


def test_single_files_travel_beside_a_folder_or_alone(home: Home) -> None:
    home.write("conf/settings.json", "{}")
    home.write("conf/deep/x.txt", "x")
    home.write("alone.sh", "echo alone").chmod(0o755)
    home.write("code/main.sh", "echo main")
    home.write("t.yml", "type: task\ncommands: ['find . -type f | sort', ./alone.sh]\nfiles: [alone.sh, 'conf:etc']\n")
    done = home.cli("apply", "-f", "t.yml", "-y")
    assert done.stdout.split() == ["./alone.sh", "./etc/deep/x.txt", "./etc/settings.json", "alone"]
    done = home.cli("apply", "-f", "t.yml", "-y", "--repo", "code")
    assert done.stdout.split()[:2] == ["./alone.sh", "./etc/deep/x.txt"] and "./main.sh" in done.stdout
    (home.path / "alone.sh").unlink()
    gone = home.cli("apply", "-f", "t.yml", "-y")
    assert gone.returncode == 1 and "which `files` names" in gone.stderr


def test_an_argument_wins_over_the_configuration_and_that_over_the_profile(home: Home) -> None:
    home.write(
        ".dstack/profiles.yml",
        "profiles:\n- {name: usual, default: true, max_price: 1, retry_policy: true, stop_duration: 7s}\n"
        "- {name: other, max_price: 2}\n",
    )
    home.write("t.yml", "type: task\nname: one\ncommands: ['true']\nretry: false\n")

    def spec(*options: str) -> dict[str, object]:
        done = home.cli("apply", "-f", "t.yml", "-y", "--json", *options)
        assert done.returncode == 0, done.stderr
        written: dict[str, object] = json.loads(done.stdout)["spec"]["configuration"]
        return {name: written.get(name) for name in ("max_price", "retry", "retry_policy", "stop_duration")}

    base = {"retry": None, "retry_policy": None, "stop_duration": "7s"}
    assert spec() == {**base, "max_price": 1}
    assert spec("--max-price", "3") == {**base, "max_price": 3}
    assert spec("--profile", "other") == {**base, "max_price": 2, "stop_duration": None}
    wrong = home.cli("apply", "-f", "t.yml", "-y", "--profile", "othr")
    assert "There is no profile `othr`; did you mean `other`?" in wrong.stderr


def test_an_active_run_is_changed_in_place_or_started_anew(home: Home) -> None:
    home.write("t.yml", "type: task\nname: one\ncommands: [sleep 1000]\npriority: 1\n")
    assert home.cli("apply", "-f", "t.yml", "-y", "-d").returncode == 0
    (before,) = home.runs()
    same = home.cli("apply", "-f", "t.yml", "-y")
    assert same.returncode == 0 and "with this configuration" in same.stderr and same.stdout == ""
    shown = home.cli("apply", "-f", "t.yml", "-y", "--json")
    assert (shown.returncode, json.loads(shown.stdout)["id"]) == (0, before["id"])
    home.write("t.yml", "type: task\nname: one\ncommands: [sleep 1000]\npriority: 7\ntags: {a: b}\n")
    changed = home.cli("apply", "-f", "t.yml", "-y")
    assert changed.returncode == 0 and "priority  1    7           in place" in changed.stderr
    (after,) = home.runs()
    assert (after["id"], after["priority"]) == (before["id"], 7)
    home.write("t.yml", "type: task\nname: one\ncommands: [sleep 2000]\npriority: 7\ntags: {a: b}\n")
    asked = home.cli("apply", "-f", "t.yml")
    assert asked.returncode == 1
    assert 'Without a terminal, dstack cannot ask "Stop the run `one` and submit it again?"' in asked.stderr
    anew = home.cli("apply", "-f", "t.yml", "-y", "-d")
    assert anew.returncode == 0, anew.stderr
    newest, former = home.runs()
    assert (former["id"], former["status"]) == (before["id"], "terminated") and newest["status"] != "terminated"
    assert home.cli("stop", "one", "-x", "-y").returncode == 0


def test_an_active_run_goes_on_where_the_new_one_could_not_have_its_local_ports(home: Home) -> None:
    home.write("t.yml", "type: task\nname: one\ncommands: [sleep 1000]\n")
    assert home.cli("apply", "-f", "t.yml", "-y", "-d").returncode == 0
    (before,) = home.runs()
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        for mapping in (str(port), f"{port}:80"):
            home.write("t.yml", f"type: task\nname: one\ncommands: [sleep 1000]\nports: ['{mapping}']\n")
            refused = home.cli("apply", "-f", "t.yml", "-y")
            assert refused.returncode == 1 and f"error: The local port {port} is in use" in refused.stderr
            (after,) = home.runs()
            assert (after["id"], after["status"] in ("provisioning", "running")) == (before["id"], True)
    assert home.cli("stop", "one", "-x", "-y").returncode == 0


@pytest.mark.parametrize("is_direct", [True, False], ids=["the job's own", "of who is attached"])
def test_a_local_port_that_the_former_run_has_is_no_reason_to_refuse_the_new_one(home: Home, is_direct: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mapping = str(port) if is_direct else f"{port}:80"
    serve = f"echo {{}}; exec python3 -m http.server {port} --bind 127.0.0.1" if is_direct else "echo {}; sleep 1000"

    def write(word: str) -> None:
        lines = "type: task\nname: one\n" + f"ports: ['{mapping}']\n" + f"commands: ['{serve.format(word)}']\n"
        home.write("t.yml", lines)

    write("first")
    assert home.cli("apply", "-f", "t.yml", "-y", "-d").returncode == 0
    if not is_direct:
        home.start("attach", "one")
    wait_for("the port", lambda: not home.may_use_port(port))
    write("second")
    anew = home.cli("apply", "-f", "t.yml", "-y", "-d")
    assert anew.returncode == 0, anew.stderr
    newest, former = home.runs()
    assert (former["status"], newest["status"] != "terminated") == ("terminated", True)
    assert home.cli("stop", "one", "-x", "-y").returncode == 0


def test_a_program_is_told_what_differs_and_does_not_start_a_second_run(home: Home) -> None:
    runs = home.client().runs
    run = runs.submit(Task(commands=["sleep 1000"]), run_name="one")
    plan = runs.get_plan(Task(commands=["sleep 1000"]), run_name="one")
    assert plan.changes == [] and runs.exec_plan(plan).id == run.id
    plan = runs.get_plan(Task(commands=["sleep 1"], priority=3), run_name="one")
    assert [(one.field, one.in_place) for one in plan.changes] == [("commands", False), ("priority", True)]
    with pytest.raises(ResourceExistsError):
        runs.exec_plan(plan)
    run.stop(abort=True)


def test_services_and_dev_environments_run_and_their_ports_are_reached(home: Home) -> None:
    runs = home.client().runs
    service = Service(port=8123, commands=['echo "serves"', "exec python3 -m http.server 8123 --bind 127.0.0.1"])
    run = runs.submit(service, run_name="web")
    assert run.attach() and run.ports is not None and set(run.ports) == {8123}
    assert next(iter(run.logs())).startswith(b"serves\n")
    run.stop(abort=True)
    workplace = runs.submit(DevEnvironment(ide="vscode", init=["echo ready"]), run_name="desk")
    assert next(iter(workplace.logs())) == b"ready\n"
    wait_for("it to be seen running", lambda: refreshed(workplace).status == "running")
    workplace.stop(abort=True)
    with pytest.raises(InvalidRequestError, match="This version of dstack cannot yet: "):
        runs.submit(Service(port=80, commands=["x"], gateway="front"))


def test_old_spellings_work_and_say_what_to_write(home: Home) -> None:
    home.write("t.yml", "type: task\ncommands: ['true']\ntermination_idle_time: 1m\n")
    done = home.cli("run", ".", "-f", "t.yml", "-y")
    assert done.returncode == 0
    assert "warning: t.yml:3:1: `termination_idle_time` is the old name of `idle_duration`" in done.stderr
    assert done.stderr.count("old name") == 1
    with pytest.warns(DeprecationWarning, match="`retry_policy` is the old name of `retry`"):
        home.client().runs.get_plan(Task(commands=["true"], retry_policy=True))  # type: ignore[arg-type]
    assert "default" in home.cli("pool").stdout
    assert json.loads(home.cli("pool", "--json").stdout)[0]["backend"] == "local"


def test_offers_say_what_fits_and_why_the_rest_does_not(home: Home) -> None:
    fits, not_there = home.cli("offer"), home.cli("offer", "--gpu", "H100:8")
    assert fits.returncode == 0 and "Shown 1 of 1 offer" in fits.stdout
    assert not_there.returncode == 1 and "gpu: asked 8 H100, has none" in not_there.stderr
    assert json.loads(home.cli("offer", "--json").stdout)["offers"][0]["backend"] == "local"


def test_what_cannot_be_made_yet_is_refused_by_name(home: Home) -> None:
    home.write("f.yml", "type: fleet\nname: team\nnodes: 2\n")
    done = home.cli("apply", "-f", "f.yml", "-y")
    assert (
        done.returncode == 1 and "`f.yml` is a fleet, which this version of dstack does not support yet" in done.stderr
    )


def test_mistake_that_the_server_finds_has_its_place_in_the_file(home: Home) -> None:
    home.write("t.yml", "type: task\ncomands: [x]\n")
    home.write(".dstack/profiles.yml", "profiles:\n- {name: a, max_price: no}\n")
    said = home.cli("apply", "-f", "t.yml", "-y").stderr
    assert said == "error: t.yml:2:1: unknown field `comands`; did you mean `commands`?\n"
    said = home.cli("offer").stderr
    assert said == "error: .dstack/profiles.yml:2:13: expected a number, found `false`\n"


def test_projects_are_kept_in_the_configuration_file(home: Home) -> None:
    home.env = {name: value for name, value in home.env.items() if not name.startswith("DSTACK_")}
    assert "No project is configured" in home.cli("project", "list").stderr
    add = ("project", "add", "--name", "main", "--url", "http://127.0.0.1:1", "--token", "s3cret", "--offline")
    assert home.cli(*add).returncode == 0
    older = ("config", "--project", "other", "--url", "http://127.0.0.1:2", "--default", "--offline")
    assert home.cli(*older, input="t2\n").returncode == 0
    path = home.path / ".dstack" / "config.yml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one["default"] for one in yaml.safe_load(path.read_text())["projects"]] == [False, True]
    listed = json.loads(home.cli("project", "list", "--json").stdout)
    assert [one["name"] for one in listed] == ["main", "other"] and "s3cret" not in json.dumps(listed)
    assert home.cli("project", "set-default", "main").returncode == 0
    assert home.cli("project", "delete", "other").returncode == 0
    wrong = home.cli("project", "set-default", "other")
    assert wrong.returncode == 1 and "it has `main`" in wrong.stderr


def test_the_schema_is_printed_for_editors(home: Home) -> None:
    for options in ((), ("--profiles",)):
        jsonschema.Draft202012Validator.check_schema(json.loads(home.cli("schema", *options).stdout))
