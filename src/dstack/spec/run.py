"""What all run types share: the fields of a job's image, environment and needs, and how commands become a script."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dstack.kit.text import shown
from dstack.spec.base import Spec
from dstack.spec.env import parse_env
from dstack.spec.names import parse_name
from dstack.spec.profile import ProfileFields
from dstack.spec.resources import Resources


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError(f"expected a path inside the folder of the run's files, found {shown(value)}")
    return value


def _words(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"expected words as a shell reads them, found {shown(value)}: {error}") from None
    return value


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Text of one form, which `expected` describes with an example."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"expected {expected}, found {shown(value)}")
        return value

    return AfterValidator(check)


PythonVersion = Annotated[str, _matching(r"[23]\.[0-9]{1,2}", "a version of Python such as `3.12`")]
User = Annotated[str, _matching(r"[\w.-]+(:[\w.-]+)?", "a user such as `ubuntu` or `1000:1000`")]
MountPoint = Annotated[
    str, _matching(r"(/[^:]*|[a-z][a-z0-9-]*):/[^:]*", "a mount such as `my-volume:/data` or `/mnt/disk:/data`")
]


_COMMAND_STATUS = 'dstack_status=$?; [ "$dstack_status" -eq 0 ] || exit "$dstack_status"'


def script_of(commands: Sequence[str]) -> str:
    """One shell script of all commands: the first that fails ends it with its exit code.

    A line of its own follows each command, so that a command may end in `&`, a comment or a here-document; the empty
    line before it takes up a backslash. `set -e` would not do: it looks away in conditions and pipelines.
    """
    return "".join(f"{command}\n\n{_COMMAND_STATUS}\n" for command in commands)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job that a configuration means."""

    replica: int
    node: int
    nodes: int
    script: str


class RunType(Protocol):
    """What the rest of dstack knows of a run type."""

    type: str

    def jobs(self) -> tuple[JobSpec, ...]:
        """The jobs of the run, by replica and node."""
        ...


class RegistryAuth(Spec):
    """Credentials for pulling a private Docker image.

    Example:
        >>> RegistryAuth(username="me", password="…").username
        'me'
    """

    username: str
    """The username"""
    password: str = Field(repr=False)
    """The password or access token"""


class RunFields(ProfileFields):
    """The fields of every run type."""

    name: Annotated[str, AfterValidator(parse_name)] | None = None
    """The run name"""
    image: str | None = None
    """The name of the Docker image to run"""
    user: User | None = None
    """The user inside the container, `user_name_or_id[:group_name_or_id]` (e.g., `ubuntu`, `1000:1000`)"""
    privileged: bool = False
    """Run the container in privileged mode"""
    entrypoint: Annotated[str, AfterValidator(_words)] | None = None
    """The Docker entrypoint"""
    working_dir: Annotated[str, AfterValidator(_inside)] | None = None
    """The path to the working directory, relative to the repository directory (`/workflow`) and inside it"""
    registry_auth: RegistryAuth | None = None
    """Credentials for pulling a private Docker image"""
    python: PythonVersion | None = None
    """The major version of Python. Mutually exclusive with `image`"""
    nvcc: bool | None = None
    """Use an image with the NVIDIA CUDA Compiler included. Mutually exclusive with `image`"""
    env: Annotated[dict[str, str | None], BeforeValidator(parse_env)] = {}
    """The mapping or the list of environment variables"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """The resources requirements to run the configuration"""
    volumes: list[MountPoint] = []
    """The volumes mount points: `name:/path` of a network volume, or `/path/on/instance:/path`"""
    priority: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    """Who goes first when not all fit: 0 to 100"""
    shell: Literal["bash", "sh"] | None = None
    """The shell that runs the commands: `bash` or `sh`. `bash` where there is one, where unset"""

    exclusive_with_image: ClassVar[tuple[str, ...]] = ("python", "nvcc")

    @model_validator(mode="after")
    def _image_comes_with_its_own(self) -> "RunFields":
        for field in self.exclusive_with_image:
            if self.image is not None and getattr(self, field) is not None:
                raise ValueError(f"expected `image` or `{field}`, found both; the image brings its own")
        return self
