"""What all run types share: the fields of a job's image, environment and needs, and how commands become a script."""

import re
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dstack.kit.text import shown
from dstack.spec.base import Also, Conflict, Spec, Text, matching
from dstack.spec.env import parse_env
from dstack.spec.mounts import FileMapping, MountPoint
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Name, ProfileFields
from dstack.spec.repos import Repo
from dstack.spec.resources import Resources

LINES = {"type": "array", "items": {"type": ["string", "boolean"]}}
Env = Annotated[dict[str, Text | None], BeforeValidator(parse_env), Also((LINES,))]


FILES = "/workflow"
"""The folder of a run's files, as a container sees it."""


def _folder(value: str) -> str:
    path = PurePosixPath(value)
    if ".." in path.parts or "\0" in value:
        raise ValueError(
            f"expected an absolute path, or one inside the folder of the run's files, found {shown(value)}"
        )
    return str(path.relative_to(FILES)) if path.is_relative_to(FILES) else value


def _words(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise ValueError(f"expected words as a shell reads them, found {shown(value)}: {error}") from None
    return value


PythonVersion = Annotated[Text, matching(r"[23]\.[0-9]{1,2}", "a version of Python such as `3.12`")]
_LABEL = r"[a-zA-Z0-9][a-zA-Z0-9\-]*"
_REGISTRY = rf"({_LABEL}(\.{_LABEL})+(:[0-9]+)?|{_LABEL}:[0-9]+|\[[0-9a-fA-F:]+\](:[0-9]+)?)"
_NAME = r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"({_REGISTRY}/)?{_NAME}(/{_NAME})*(:\w[\w.\-]{{0,127}})?(@[a-z0-9]+:[0-9a-f]+)?", re.ASCII)


def _image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        advice = "; its name is in lower case" if _IMAGE.fullmatch(value.lower()) else ""
        raise ValueError(f"expected an image such as `ubuntu:24.04`, found {shown(value)}{advice}")
    return value


Image = Annotated[str, AfterValidator(_image)]
User = Annotated[Text, matching(r"[\w.-]+(:[\w.-]+)?", "a user such as `ubuntu` or `1000:1000`")]


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


class RegistryAuth(Spec):
    """Who pulls a private image.

    Examples:
        >>> RegistryAuth(username="me", password="…").username
        'me'
    """

    username: Text
    """The user's name at the registry"""
    password: Text = Field(repr=False)
    """The user's password, or an access token"""


class RunFields(ProfileFields):
    """The fields of every run type."""

    name: Name | None = None
    """The run's name; a random one where unset"""
    image: Image | None = None
    """The container image to run"""
    user: User | None = None
    """Who the job is inside its container: `name_or_id[:group_name_or_id]`, such as `ubuntu` or `1000:1000`"""
    privileged: bool = False
    """Whether the container may do what the host's root may"""
    entrypoint: Annotated[str, AfterValidator(_words)] | None = None
    """What the container starts instead of the image's own entrypoint, in the words of a shell"""
    working_dir: Annotated[str, AfterValidator(_folder)] | None = None
    """Where the commands start: a path inside the folder of the run's files (`/workflow`), which is where they start
    where unset; or an absolute path, in a container"""
    registry_auth: RegistryAuth | None = None
    """Who pulls a private image"""
    python: PythonVersion | None = None
    """The version of Python, such as `3.12`: the machine's own, or the default image's. Not beside `image`"""
    nvcc: bool | None = None
    """Whether the default image has NVIDIA's CUDA compiler. Not beside `image`"""
    docker: bool | None = None
    """Whether the job can run Docker itself. Not beside `image`"""
    env: Env = {}
    """Environment variables: a mapping, or a list of `NAME=value` and of `NAME` for those of the submitter"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """What the job needs of a machine"""
    volumes: list[MountPoint] = []
    """What is mounted: `name:/path` of a network volume, or `/path/on/instance:/path`; `:ro` after it to read only"""
    files: list[FileMapping] = []
    """Files and folders of this machine that travel with the run: `local`, or `local:path/in/the/job`"""
    repos: Annotated[list[Repo], Field(max_length=1)] = []
    """The folder or Git repository that the run brings along: `.`, a URL, or a mapping"""
    single_branch: bool | None = None
    """Whether only the one branch of the repository is cloned"""
    setup: list[Text] = []
    """An old field without effect"""
    home_dir: str | None = None
    """An old field without effect"""
    priority: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    """Who goes first when not all fit: 0 to 100"""
    shell: Literal["bash", "sh"] | None = None
    """The shell that runs the commands: `bash` or `sh`. `bash` where there is one, where unset"""

    without_effect: ClassVar[Mapping[str, str]] = {
        "setup": "write its commands at the beginning of `commands`, or of `init`",
        "home_dir": "leave it out; `working_dir` sets where commands start",
    }

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """As `Spec.conflicts`."""
        yield from super().conflicts(written)
        for field in ("python", "nvcc", "docker"):
            if written.get("image") is not None and written.get(field) not in (None, False):
                yield Conflict(field, f"expected `image` or `{field}`, found both; the image brings its own")

    @abstractmethod
    def jobs(self) -> tuple[JobSpec, ...]:
        """The jobs of the run, by replica and node."""

    @abstractmethod
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """The ports of a job that `attach` forwards."""


def port_conflicts(written: Mapping[str, Any]) -> Iterator[Conflict]:
    """Ports of the job that are forwarded once more."""
    seen: set[int] = set()
    ports = written.get("ports")
    for index, port in enumerate(ports if isinstance(ports, list) else ()):
        try:
            number = PortMapping.parse(port).container_port
        except ValueError:
            continue
        if number in seen:
            yield Conflict("ports", f"expected each port of the job once, found `{number}` again", index)
        seen.add(number)
