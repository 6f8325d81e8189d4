"""The request bodies that the API accepts. Unknown fields are refused, so that no field is silently ignored."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

COUNT_MAX = 1 << 62
"""The largest number in a query or header. A database can store it, and it can be incremented."""


class Request(BaseModel):
    """The base of every request body."""

    # A value may be a secret, so errors do not show it.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RepoRef(Request):
    """The files of a run: their repo, the commit to clone, and the manifest of the sent files."""

    id: str = Field(min_length=1, max_length=200)
    kind: Literal["local", "remote", "virtual"] = "local"
    root: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """The hash of the manifest's root; None if no files were sent."""
    url: str | None = Field(default=None, max_length=2000)
    """The URL of a remote repo."""
    branch: str | None = Field(default=None, pattern=r"^[^-\s][^\s]{0,250}$")
    hash: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,64}$")
    parts_sent: bool = False
    """Whether submodules and files in Git LFS were sent; otherwise the job's machine fetches them."""


class InitRepo(Request):
    """A repo to initialize, and its credentials."""

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
    """A run to plan or to submit. The header `Idempotency-Key` makes a repeated submit safe."""

    run_name: str | None = None
    configuration: dict[str, Any]
    """The configuration with its `type`, and only the fields that were set."""
    configuration_path: str | None = None
    """The path of the configuration's file, shown with the run."""
    repo: RepoRef | None = None
    """The run's files; None for no files."""
    ssh_public_key: str | None = Field(default=None, max_length=2000)
    """The public key to authorize for the run's jobs, in OpenSSH's format."""
    path: str | None = Field(default=None, max_length=PATH_CHARACTERS_MAX)
    """The submitter's `PATH` for process jobs, if server and submitter are the same user on the same machine."""


class StopRun(Request):
    """A request to stop a run."""

    abort: bool = False
    """Whether to end the run at once, without a grace period."""


class GrantAccess(Request):
    """A request to authorize a key for one job."""

    public_key: str = Field(max_length=2000)
    """The public key, in OpenSSH's format."""
    replica: int = 0
    node: int = 0


class BlobHashes(Request):
    """The blobs that a client is going to send."""

    hashes: list[str] = Field(max_length=10_000)
    """The hashes of the blobs."""
    pages: list[str] = Field(default=[], max_length=10_000)
    """The hashes of a manifest's pages. The chunks of pages that the server has are checked too."""
