"""The request bodies that the API accepts. Unknown fields are refused, so that no field is silently ignored."""

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from dstack.protocol.actions import Role

COUNT_MAX = 1 << 62
"""The largest number in a query or header. A database can store it, and it can be incremented."""


Url: TypeAlias = Annotated[str, Meta(max_length=2000)]
PublicKey: TypeAlias = Annotated[str, Meta(max_length=2000)]
Hashes: TypeAlias = Annotated[list[str], Meta(max_length=10_000)]


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every request body. Fields with their defaults are not sent."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"  # a value may be a secret


class RepoRef(Request, frozen=True, kw_only=True):
    """The files of a run: their repo, the commit to clone, and the manifest of the sent files."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    kind: Literal["local", "remote", "virtual"] = "local"
    # In the patterns, `$` alone would also match before a last line feed.
    root: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")] | None = None
    """The hash of the manifest's root; None if no files were sent."""
    url: Url | None = None
    """The URL of a remote repo."""
    branch: Annotated[str, Meta(pattern=r"^[^-\s][^\s]{0,250}$(?!\n)")] | None = None
    hash: Annotated[str, Meta(pattern=r"^[0-9a-f]{7,64}$(?!\n)")] | None = None
    parts_sent: bool = False
    """Whether submodules and files in Git LFS were sent; otherwise the job's machine fetches them."""


class InitRepo(Request, frozen=True, kw_only=True):
    """A repo to initialize, and its credentials."""

    kind: Literal["local", "remote", "virtual"]
    url: Url | None = None
    private_key: Annotated[str, Meta(max_length=20_000)] | None = None
    token: Annotated[str, Meta(max_length=2000)] | None = None


SECRET_CHARACTERS_MAX = 50_000


class SetSecret(Request, frozen=True, kw_only=True):
    """The value of a secret."""

    value: Annotated[str, Meta(max_length=SECRET_CHARACTERS_MAX)]


class PutBackend(Request, frozen=True, kw_only=True):
    """The configuration of a backend."""

    config: dict[str, Any]
    """The configuration with its `type` and credentials."""


PATH_CHARACTERS_MAX = 32_768


class SubmitRun(Request, frozen=True, kw_only=True):
    """A run to plan or to submit. The header `Idempotency-Key` makes a repeated submit safe."""

    run_name: str | None = None
    configuration: dict[str, Any]
    """The configuration with its `type`, and only the fields that were set."""
    configuration_path: str | None = None
    """The path of the configuration's file, shown with the run."""
    repo: RepoRef | None = None
    """The run's files; None for no files."""
    ssh_public_key: PublicKey | None = None
    """The public key to authorize for the run's jobs, in OpenSSH's format."""
    path: Annotated[str, Meta(max_length=PATH_CHARACTERS_MAX)] | None = None
    """The submitter's `PATH` for process jobs, if server and submitter are the same user on the same machine."""


class UpdateRun(SubmitRun, frozen=True, kw_only=True):
    """Another configuration for an active run. Without a `repo` its files stay as they are."""

    force: bool = False
    """Whether a service's replicas are replaced at once, and not one by one."""

    @property
    def wish(self) -> SubmitRun:
        """The run as it is to be."""
        return SubmitRun(**{name: getattr(self, name) for name in SubmitRun.__struct_fields__})


class ReadConfiguration(Request, frozen=True, kw_only=True):
    """A configuration to read: plain data as written in YAML."""

    configuration: Any
    """The data of the configuration's file."""
    changes: dict[str, Any] = {}
    """Fields that replace those of the configuration. Entries of `env` and `resources` replace single ones."""
    profiles: Annotated[list[Any], Meta(max_length=2)] = []
    """The data of each file of profiles. An earlier file has precedence."""
    profile: str | None = None
    """The name of the profile that applies; None for the default profile."""
    project: str | None = None
    """The project whose backends the configuration may name; None to accept any name of a backend."""


class StopRun(Request, frozen=True, kw_only=True):
    """A request to stop a run."""

    abort: bool = False
    """Whether to end the run at once, without a grace period."""


class GrantAccess(Request, frozen=True, kw_only=True):
    """A request to authorize a key for one job."""

    public_key: PublicKey
    """The public key, in OpenSSH's format."""
    replica: int = 0
    node: int = 0


class BlobHashes(Request, frozen=True, kw_only=True):
    """The blobs that a client is going to send."""

    hashes: Hashes
    """The hashes of the blobs."""
    pages: Hashes = []
    """The hashes of a manifest's pages. The chunks of pages that the server has are checked too."""


class CreateUser(Request, frozen=True, kw_only=True):
    """A user to create."""

    name: str
    is_admin: bool = False
    """Whether the user is an admin of the server."""


class UpdateUser(Request, frozen=True, kw_only=True):
    """A change of a user."""

    is_admin: bool


TOKEN_SECONDS_MIN = 60
TOKEN_SECONDS_MAX = 3650 * 86_400


class CreateToken(Request, frozen=True, kw_only=True):
    """A token to create."""

    name: str
    """A name that distinguishes it from the user's other tokens."""
    expires_in_s: Annotated[int, Meta(ge=TOKEN_SECONDS_MIN, le=TOKEN_SECONDS_MAX)] | None = None
    """The time until it expires, in seconds; None for never."""


class CreateProject(Request, frozen=True, kw_only=True):
    """A project to create."""

    name: str


class SetMember(Request, frozen=True, kw_only=True):
    """A member's role."""

    role: Role
