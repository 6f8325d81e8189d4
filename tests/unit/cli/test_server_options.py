"""The options with which programs and scripts start a server."""

import os

import pytest

from dstack.cli.main import main


@pytest.mark.parametrize(
    ("options", "token"), [(["--token", "t0", "-y"], "t0"), (["-y"], "of the environment"), ([], "of the environment")]
)
def test_token_option_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, options: list[str], token: str
) -> None:
    monkeypatch.setenv("DSTACK_SERVER_ADMIN_TOKEN", "of the environment")
    seen: list[str | None] = []

    def serve(*_arguments: object, **_more: object) -> int:
        seen.append(os.environ.get("DSTACK_SERVER_ADMIN_TOKEN"))
        return 0

    monkeypatch.setattr("dstack.server.app.serve", serve)
    assert main(["server", *options]) == 0
    assert seen == [token]
