"""Every kind of log store."""

from pathlib import Path

import pytest

from dstack.logs.base import LogStore
from dstack.logs.bucket import LogBucket
from dstack.logs.files import LogFiles


@pytest.fixture(params=["files", "bucket"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> LogStore:
    return LogFiles(tmp_path) if request.param == "files" else LogBucket(request.getfixturevalue("bucket"))
