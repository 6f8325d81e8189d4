"""The `repos` of a configuration: the Git repository or folder with the run's files."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from dstack.kit.text import shown
from dstack.spec.base import NUMBER, TEXT, Also, Conflict, Spec, Text, matching
from dstack.spec.paths import Place

_REMOTE = re.compile(r"([a-z][a-z0-9+]*://[^/\s]+/[^:\s]*|[\w.-]+@[\w.-]+:[^:\s]+)(?::(\S+))?")


class RepoSource(Spec):
    """The Git repository or folder with a run's files.

    Examples:
        >>> RepoSource.model_validate("https://github.com/team/project").url
        'https://github.com/team/project'
        >>> RepoSource.model_validate("..:src").path
        'src'
    """

    local_path: Text | None = None
    """The path of a local folder, relative to the folder of the configuration's file"""
    url: Text | None = None
    """The URL of a Git remote"""
    branch: Text | None = None
    """The branch of the remote. The default branch by default"""
    hash: Annotated[Text, matching(r"[0-9a-f]{7,64}", "a commit such as `0a1b2c3`")] | None = None
    """The commit of the remote. The branch's newest commit by default"""
    path: Annotated[Place, Also((NUMBER,))] = "."
    """The path in the job: relative to the folder of the run's files (`/workflow`), or absolute in a container. The
    folder of the run's files by default"""
    if_exists: Literal["error", "skip"] = "error"
    """The handling of files that exist at the path: `error` or `skip`"""

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: Any) -> Any:
        return _source_of(value) if isinstance(value, str) else value

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        if (written.get("local_path") is None) == (written.get("url") is None):
            yield Conflict(None, "expected one of `local_path` and `url`")
        for field in ("branch", "hash"):
            if written.get("local_path") is not None and written.get(field) is not None:
                expected = f"expected `{field}` beside `url` only"
                yield Conflict(field, f"{expected}: a folder goes as it is checked out here, with its differences")


def _source_of(text: str) -> dict[str, str]:
    if (found := _REMOTE.fullmatch(text)) is not None:
        return {"url": found[1], **({"path": found[2]} if found[2] else {})}
    local_path, colon, path = text.partition(":")
    if not local_path or (colon and not path) or ":" in path:
        raise ValueError(f"expected a folder or a URL, such as `.` or `https://example.com/a/b`, found {shown(text)}")
    return {"local_path": local_path, **({"path": path} if colon else {})}


Repo = Annotated[RepoSource, Also((TEXT,))]
