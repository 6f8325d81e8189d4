"""Running the command inside the test, with its exit code, stdout and stderr in one text."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack.cli.main import main

Cli = Callable[..., str]


class Output(io.TextIOWrapper):
    """A text stream over bytes, as stdout is."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs `dstack` with the given arguments in an empty home; returns exit code, stdout and stderr as one text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for name in ("DSTACK_SERVER_URL", "DSTACK_TOKEN", "DSTACK_PROJECT", "DSTACK_SERVER_DIR", "DSTACK_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: str = "") -> str:
        out, err = Output(), Output()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            try:
                code = main(arguments)
            except SystemExit as end:
                code = int(end.code or 0)
        parts = [f"exit {code}\n", out.text() and f"stdout:\n{out.text()}", err.text() and f"stderr:\n{err.text()}"]
        return "".join(parts)

    return run
