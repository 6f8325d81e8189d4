"""The server reads a configuration from JSON as a client reads it from plain data: same form, notes and mistakes."""

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dstack.api._reading import _is_json
from dstack.errors import ConfigurationError
from dstack.operations import configurations
from dstack.protocol.requests import ReadConfiguration
from dstack.protocol.views import ConfigurationView, MistakeView
from dstack.protocol.wire import decoded, encoded, request_of
from dstack.server.http.edge import parsed
from dstack.spec.mistakes import Mistaken
from dstack.spec.reading import read
from dstack.spec.yaml import read_yaml
from tests.unit.operations.test_runs import ADA
from tests.unit.spec.test_types import MORE, PIECES, WHOLE

NO_CONTEXT: Any = None
"""A request that names no project needs none."""
TEXTS = [*WHOLE.values(), *MORE]
DAMAGES = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 12), st.sampled_from(PIECES) | st.text()), max_size=4)


def read_here(data: object) -> ConfigurationView:
    try:
        found = read(data, {}, [], None)
    except Mistaken as error:
        mistakes = [MistakeView(path=list(one.path), text=one.text) for one in error.mistakes]
        return ConfigurationView(configuration={}, mistakes=mistakes, document=error.document)
    notes = [MistakeView(path=list(one.path), text=one.text) for one in found.notes]
    return ConfigurationView(configuration=found.configuration, ports=dict(found.ports), notes=notes)


@given(st.sampled_from(TEXTS), DAMAGES)
def test_server_reads_any_file_as_a_client_does(text: str, damages: list[tuple[int, int, str]]) -> None:
    for start, length, piece in damages:
        text = text[:start] + piece + text[start + length :]
    with suppress(ConfigurationError):
        data = read_yaml(text, "x.yml").data
        if _is_json(data):
            request = request_of(ReadConfiguration, parsed(encoded(ReadConfiguration(configuration=data))))
            answer = decoded(ConfigurationView, encoded(asyncio.run(configurations.read(NO_CONTEXT, ADA, request))))
            assert answer == read_here(data)
