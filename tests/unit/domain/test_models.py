"""The model that a service declares, as the data plane receives it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from dstack.domain.models import model_of
from dstack.protocol.proxy import Model
from dstack.spec.service import Service

AT = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, None),
        ("meta/llama", Model("meta/llama", "openai", "/v1", created_at=1893456000)),
        ({"name": "a", "format": "openai", "prefix": "/api"}, Model("a", "openai", "/api", created_at=1893456000)),
        ({"name": "a", "format": "tgi"}, Model("a", "tgi", created_at=1893456000)),
        (
            {"name": "a", "format": "tgi", "chat_template": "T", "eos_token": "E"},
            Model("a", "tgi", chat_template="T", eos_token="E", created_at=1893456000),
        ),
    ],
)
def test_model_of_a_service_keeps_what_was_written(written: Any, expected: Model | None) -> None:
    assert model_of(Service(port=8000, commands=["serve"], model=written), AT) == expected
