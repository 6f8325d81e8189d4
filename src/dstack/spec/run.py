"""What all run types share: the fields of a job's image, environment and needs, and how commands become a script."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dstack.spec.base import Spec
from dstack.spec.env import parse_env
from dstack.spec.names import parse_name
from dstack.spec.profile import ProfileFields
from dstack.spec.resources import Resources


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ValueError(f"expected a path inside the folder of the run's files, found `{value}`")
    return value


_COMMAND_STATUS = 'dstack_status=$?; [ "$dstack_status" -eq 0 ] || exit "$dstack_status"'


def script_of(commands: Sequence[str]) -> str:
    """One shell script of all commands: the first that fails ends it with its exit code.

    A line of its own follows each command, so that a command may end in `&`, a comment or a here-document. `set -e`
    would not do: it looks away in conditions and pipelines.
    """
    return "".join(f"{command.rstrip()}\n{_COMMAND_STATUS}\n" for command in commands)


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
    user: str | None = None
    """The user inside the container, `user_name_or_id[:group_name_or_id]` (e.g., `ubuntu`, `1000:1000`)"""
    privileged: bool = False
    """Run the container in privileged mode"""
    entrypoint: str | None = None
    """The Docker entrypoint"""
    working_dir: Annotated[str, AfterValidator(_inside)] | None = None
    """The path to the working directory, relative to the repository directory (`/workflow`) and inside it"""
    registry_auth: RegistryAuth | None = None
    """Credentials for pulling a private Docker image"""
    python: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, float) else value)] | None = (
        None
    )
    """The major version of Python. Mutually exclusive with `image`"""
    nvcc: bool | None = None
    """Use an image with the NVIDIA CUDA Compiler included. Mutually exclusive with `image`"""
    env: Annotated[dict[str, str | None], BeforeValidator(parse_env)] = {}
    """The mapping or the list of environment variables"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """The resources requirements to run the configuration"""
    volumes: list[str] = []
    """The volumes mount points"""
    priority: Annotated[int, Field(ge=0, le=100)] = 0
    """Who goes first when not all fit: 0 to 100"""
    shell: str | None = None
    """The shell that runs the commands: `bash` or `sh`"""

    exclusive_with_image: ClassVar[tuple[str, ...]] = ("python", "nvcc")

    @model_validator(mode="after")
    def _image_comes_with_its_own(self) -> "RunFields":
        for field in self.exclusive_with_image:
            if self.image is not None and getattr(self, field) is not None:
                raise ValueError(f"expected `image` or `{field}`, found both; the image brings its own")
        return self
