"""`dstack backend` with files that are not backends: refused before any server is asked."""

from pathlib import Path

import pytest

from .conftest import Cli

FIELDS = "expected the fields of one backend, such as `type: aws`"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"{FIELDS}, found an empty file"),
        ("- type: aws\n", f"{FIELDS}, found a list"),
        ("aws\n", f"{FIELDS}, found `aws`"),
        ("type: aws\ntype: gcp\n", "the field `type` is written twice"),
    ],
)
def test_file_that_is_no_backend_is_refused_with_its_place(cli: Cli, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "aws.yml").write_text(text)
    done = cli("backend", "add", "aws.yml")
    assert done.startswith("exit 1\nstderr:\nerror: aws.yml:") and said in done
    assert not (tmp_path / ".dstack" / "server").exists()


def test_missing_file_is_refused_with_its_expected_contents(cli: Cli) -> None:
    done = cli("backend", "add", "aws.yml")
    assert "error: There is no file `aws.yml`\nhint: Write the backend's `type` and `creds` into it" in done


def test_options_that_choose_machines_are_explained(cli: Cli) -> None:
    shown = " ".join(cli("offer", "--help").split())
    for words in (
        "-b NAME, --backend NAME a backend: its type, such as `aws`, or its name; may be repeated",
        "a region of a backend;",
    ):
        assert words in shown
