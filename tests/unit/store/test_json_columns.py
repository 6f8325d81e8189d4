import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack.store.json_columns import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_column_is_read_as_it_was_written(value: object) -> None:
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\x00"])
def test_lone_surrogates_are_kept(text: str) -> None:
    assert read_json(json.dumps({text: [text]})) == {text: [text]}


def test_not_a_number_is_read() -> None:
    assert math.isnan(read_json(json.dumps({"a": math.nan}))["a"])
