"""REST bodies in. Unknown fields are refused, so that no wish is silently ignored."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

COUNT_MAX = 1 << 62
"""No number that a query or a header holds is larger: a database keeps it, and something can be added to it."""


class Request(BaseModel):
    """The base of every body the API takes."""

    # What somebody wrote may be a secret, and no error is to show it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RepoRef(Request):
    """The files of a run: which repo they come from, what to clone, and the root of the manifest of what was sent."""

    id: str = Field(min_length=1, max_length=200)
    kind: Literal["local", "remote", "virtual"] = "local"
    root: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    url: str | None = Field(default=None, max_length=2000)
    """Of a remote repo."""
    branch: str | None = Field(default=None, pattern=r"^[^-\s][^\s]{0,250}$")
    hash: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,64}$")
    parts_sent: bool = False
    """Whether submodules and files in Git LFS are among what was sent; else the job's machine fetches them."""


class InitRepo(Request):
    """A repo that the caller is going to use, and the credentials for it."""

    kind: Literal["local", "remote", "virtual"]
    url: str | None = Field(default=None, max_length=2000)
    private_key: str | None = Field(default=None, max_length=20_000, repr=False)
    token: str | None = Field(default=None, max_length=2000, repr=False)


SECRET_CHARACTERS_MAX = 50_000


class SetSecret(Request):
    """The value of a secret."""

    value: str = Field(max_length=SECRET_CHARACTERS_MAX, repr=False)


PATH_CHARACTERS_MAX = 32_768


class SubmitRun(Request):
    """What it takes to plan or to submit a run. `Idempotency-Key` as a header makes a repeated submit safe."""

    run_name: str | None = None
    configuration: dict[str, Any]
    """A configuration with its `type`, holding only the fields that were written."""
    configuration_path: str | None = None
    repo: RepoRef | None = None
    ssh_public_key: str | None = Field(default=None, max_length=2000)
    path: str | None = Field(default=None, max_length=PATH_CHARACTERS_MAX)
    """The submitter's `PATH`, where server and submitter are one user of one machine: process jobs there get it."""


class StopRun(Request):
    """How to stop a run."""

    abort: bool = False
    """End it at once, without a grace period."""


class GrantAccess(Request):
    """Lets a key into one job."""

    public_key: str = Field(max_length=2000)
    replica: int = 0
    node: int = 0


class BlobHashes(Request):
    """Which blobs the client is about to send."""

    hashes: list[str] = Field(max_length=10_000)
    pages: list[str] = Field(default=[], max_length=10_000)
    """Pages of a manifest: of those that are there, the chunks are looked after too."""
