"""`repos` of a configuration: which Git repository or folder lands in a job."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import model_validator

from dstack.kit.text import shown
from dstack.spec.base import TEXT, Also, Conflict, Spec, Text, matching

_REMOTE = re.compile(r"([a-z][a-z0-9+]*://[^/\s]+/[^:\s]*|[\w.-]+@[\w.-]+:[^:\s]+)(?::(\S+))?")


class RepoSource(Spec):
    """A repository that a run brings along.

    Examples:
        >>> RepoSource.model_validate("https://github.com/team/project").url
        'https://github.com/team/project'
        >>> RepoSource.model_validate("..:src").path
        'src'
    """

    local_path: Text | None = None
    """A folder of this machine, relative to the folder of the configuration's file"""
    url: Text | None = None
    """The URL of a Git remote"""
    branch: Text | None = None
    """The branch of the remote; its default branch where unset"""
    hash: Annotated[Text, matching(r"[0-9a-f]{7,64}", "a commit such as `0a1b2c3`")] | None = None
    """The commit of the remote; the branch's newest one where unset"""
    path: Text = "."
    """The path in the job; the folder of the run's files where unset"""
    if_exists: Literal["error", "skip"] = "error"
    """What happens where the path has files already: `error` or `skip`"""

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: Any) -> Any:
        return _source_of(value) if isinstance(value, str) else value

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        if (written.get("local_path") is None) == (written.get("url") is None):
            yield Conflict(None, "expected one of `local_path` and `url`")


def _source_of(text: str) -> dict[str, str]:
    if (found := _REMOTE.fullmatch(text)) is not None:
        return {"url": found[1], **({"path": found[2]} if found[2] else {})}
    local_path, colon, path = text.partition(":")
    if not local_path or (colon and not path) or ":" in path:
        raise ValueError(f"expected a folder or a URL, such as `.` or `https://example.com/a/b`, found {shown(text)}")
    return {"local_path": local_path, **({"path": path} if colon else {})}


Repo = Annotated[RepoSource, Also((TEXT,))]
