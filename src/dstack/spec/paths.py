"""Where something lies in a job: inside the folder of the run's files, or at an absolute path."""

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from dstack.kit.text import shown

FILES = "/workflow"
"""The folder of a run's files, as a container sees it."""


def _place(value: str) -> str:
    path = PurePosixPath(value)
    if ".." in path.parts or "\0" in value:
        raise ValueError(
            f"expected an absolute path, or one inside the folder of the run's files, found {shown(value)}"
        )
    return str(path.relative_to(FILES)) if path.is_relative_to(FILES) else value


Place = Annotated[str, AfterValidator(_place)]
"""A path that is relative to the folder of the run's files, also where it was written as `/workflow/x`; or absolute."""
