"""A configuration is read by the server as by a client, and mistakes are part of the answer."""

import pytest

from dstack.errors import InvalidRequestError
from dstack.operations import configurations
from dstack.operations.wishes import CONFIGURATION_BYTES_MAX
from dstack.protocol.requests import ReadConfiguration
from dstack.protocol.views import ConfigurationView, MistakeView

TASK = {"type": "task", "commands": ["x"]}


async def test_canonical_form_comes_with_ports_and_notes() -> None:
    asked = ReadConfiguration(
        configuration={**TASK, "ports": ["8000:80"], "retry_policy": False},
        changes={"priority": 1},
        profiles=[{"profiles": [{"name": "a", "max_price": 1}]}],
        profile="a",
    )
    note = MistakeView(path=["retry_policy"], text="`retry_policy` is the old name of `retry`: write `retry` instead")
    assert await configurations.read(asked) == ConfigurationView(
        configuration={**TASK, "ports": ["8000:80"], "retry_policy": None, "priority": 1, "max_price": 1.0},
        ports={80: 8000},
        notes=[note],
    )


async def test_mistakes_are_an_answer_with_their_document() -> None:
    asked = ReadConfiguration(configuration=TASK, profiles=[{"profiles": [{"name": "a", "max_price": -1}]}])
    mistake = MistakeView(path=["profiles", 0, "max_price"], text="expected more than 0, found `-1`")
    assert await configurations.read(asked) == ConfigurationView(configuration={}, mistakes=[mistake], document=1)


async def test_missing_profile_and_large_data_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="There is no profile `a`: no file has profiles"):
        await configurations.read(ReadConfiguration(configuration=TASK, profile="a"))
    with pytest.raises(InvalidRequestError, match="at most 524288 are taken"):
        await configurations.read(ReadConfiguration(configuration="x" * CONFIGURATION_BYTES_MAX))
