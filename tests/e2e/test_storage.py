"""Logs and uploads in S3-compatible storage: nothing of them stays in the server's folder; mistakes are told."""

import pytest

from tests.e2e.home import Home
from tests.s3 import S3Server


def test_a_server_with_a_bucket_keeps_logs_and_uploads_there_alone(home: Home, s3: S3Server) -> None:
    home.env |= s3.settings()
    home.write("code/hello.sh", "echo hello from the bucket\n")
    name = home.cli("apply", "-y", "-f", str(home.write("a.dstack.yml", TASK)), "--repo", str(home.path / "code"))
    assert "hello from the bucket" in name.stdout, name.stdout + name.stderr
    assert home.cli("logs", "hello").stdout == "hello from the bucket\n"
    assert not (home.data / "logs").exists() and not (home.data / "blobs").exists()


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
