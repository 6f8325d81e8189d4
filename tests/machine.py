"""What this machine lacks for a test: CI fails where it could have it, and says loudly where it cannot."""

import os
from typing import NoReturn

import pytest

REFUSALS = ("operation not permitted", "permission denied", "read-only file system")
"""A kernel's words to a root that is none, as in a container: nothing here can change that."""


def missing(reason: str) -> NoReturn:
    """Skip the test because of what can be installed; fail in CI, which installs it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def refused(reason: str) -> NoReturn:
    """Skip the test because the machine does not allow it; fail in CI where that is not what the reason says."""
    if os.environ.get("CI") and not any(words in reason.lower() for words in REFUSALS):
        pytest.fail(reason)
    pytest.skip(reason)
