"""Logs and uploads in S3-compatible storage: nothing of them stays in the server's folder; mistakes are told."""

import pytest

from dstack.api import Task
from tests.e2e.home import Home, wait_for
from tests.s3 import Road, S3Server


def test_a_server_with_a_bucket_keeps_logs_and_uploads_there_alone(home: Home, s3: S3Server) -> None:
    home.env |= s3.settings()
    home.write("code/hello.sh", "echo hello from the bucket\n")
    name = home.cli("apply", "-y", "-f", str(home.write("a.dstack.yml", TASK)), "--repo", str(home.path / "code"))
    assert "hello from the bucket" in name.stdout, name.stdout + name.stderr
    assert home.cli("logs", "hello").stdout == "hello from the bucket\n"
    assert not (home.data / "logs").exists() and not (home.data / "blobs").exists()


def test_while_the_bucket_is_away_jobs_go_on_and_their_logs_wait(
    home: Home, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    road = Road(s3.url)
    for name, value in {**s3.settings(), "DSTACK_S3_ENDPOINT_URL": road.url}.items():
        monkeypatch.setenv(name, value)
    gate = home.gate()
    script = f"echo before; read line <{gate}; for i in 1 2 3; do echo meanwhile $i; done; touch {home.path}/over"
    run = home.client().runs.submit(run_name="patient", configuration=Task(commands=[script]))
    assert next(run.logs()) == b"before\n"
    road.close()
    home.open_gate()
    wait_for("the end of the job", lambda: (home.path / "over").exists())
    wait_for("the server to notice", lambda: "could not be stored" in home.server_log())
    road.open()
    assert b"".join(run.logs()) == b"before\nmeanwhile 1\nmeanwhile 2\nmeanwhile 3\n"
    run.refresh()
    assert run.status == "done"
    road.end()


TASK = "type: task\nname: hello\ncommands:\n  - sh hello.sh\n"


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"DSTACK_S3_BUCKET": "no-such-bucket"}, "The bucket `no-such-bucket` cannot be used: "),
        ({"DSTACK_S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect to the endpoint URL"),
        ({"DSTACK_S3_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
    ],
    ids=["no bucket", "nobody answers", "no URL", "no credentials"],
)
def test_a_bucket_that_cannot_be_used_is_one_clear_message(
    home: Home, s3: S3Server, settings: dict[str, str], said: str
) -> None:
    home.env |= s3.settings() | settings | {"AWS_EC2_METADATA_DISABLED": "true"}
    result = home.cli("server", "--port", "0")
    assert result.returncode == 1
    assert said in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("\n") <= 3
