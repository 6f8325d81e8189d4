"""All kinds of objects with a lifecycle, by name. Only this module lists them."""

from typing import Any

from dstack.store.kinds.instance import INSTANCE
from dstack.store.kinds.job import JOB
from dstack.store.kinds.kind import Kind
from dstack.store.kinds.run import RUN

KINDS: dict[str, Kind[Any]] = {kind.rows.kind: kind for kind in (RUN, JOB, INSTANCE)}
