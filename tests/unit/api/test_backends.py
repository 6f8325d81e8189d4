"""Backends in Python: what is sent for them, and what is returned."""

from typing import Any

import pytest

from dstack.api import ConfigurationError
from dstack.api._backends import BackendCollection
from dstack.protocol import routes
from dstack.protocol.backends import BackendList, BackendRemovalView, BackendView

CONFIG = {"type": "aws", "regions": ["us-east-1"], "creds": {"type": "default", "secret_key": "***"}}


class Answers:
    """A transport that answers with the backends of one project."""

    def call(self, route: object, *request: object, **path: object) -> object:
        assert route is routes.LIST_BACKENDS
        return BackendList(backends=[BackendView(name="mine", silent=False, type="aws", config=CONFIG)])


def test_backend_shows_its_configuration_without_credentials() -> None:
    (mine,) = BackendCollection(Answers(), "main").list()  # type: ignore[arg-type]
    assert mine.config == CONFIG
    assert mine in {mine}, "a backend can be kept in a set"


@pytest.mark.parametrize(
    ("config", "found"), [("aws.yml", "`aws.yml`"), (None, "nothing"), ([{"type": "aws"}], "a list")]
)
def test_configuration_that_is_no_mapping_is_refused(config: Any, found: str) -> None:
    with pytest.raises(ConfigurationError, match=f"`config`: expected fields such as `type: aws`, found {found}"):
        BackendCollection(Answers(), "main").add(config)  # type: ignore[arg-type]


def test_forced_deletion_is_asked_for_in_the_query() -> None:
    asked: list[tuple[object, object]] = []

    class Removals:
        def call(self, route: object, *request: object, query: object = None, **path: object) -> object:
            asked.append((route, query))
            return BackendRemovalView(name="mine", removed=True, given_up=["a machine"])

    backends = BackendCollection(Removals(), "main")  # type: ignore[arg-type]
    assert backends.delete("mine", force=True).given_up == ["a machine"]
    backends.delete("mine", for_all=True, force=True)
    assert asked == [
        (routes.DELETE_BACKEND, {"force": "true"}),
        (routes.DELETE_BACKEND_FOR_ALL, {"force": "true"}),
    ]
