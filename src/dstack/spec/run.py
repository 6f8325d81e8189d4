"""The fields that all run types share: image, environment, resources and files; and the script of the commands."""

import re
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dstack.kit.text import shown
from dstack.spec.base import Also, Conflict, Spec, Text, matching
from dstack.spec.env import parse_env
from dstack.spec.mistakes import Mistaken
from dstack.spec.mounts import FileMapping, MountPoint
from dstack.spec.paths import Place
from dstack.spec.ports import PortMapping
from dstack.spec.profile import Name, ProfileFields
from dstack.spec.repos import Repo
from dstack.spec.resources import Resources
from dstack.spec.validation import refusal_of

LINES = {"type": "array", "items": {"type": ["string", "boolean"]}}


def _env(value: object) -> dict[str, str | None]:
    try:
        return parse_env(value)
    except Mistaken as error:
        raise refusal_of(error.mistakes) from None


Env = Annotated[dict[str, Text | None], BeforeValidator(_env), Also((LINES,))]


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
    """Return one shell script of all commands. The first command that fails ends it with its exit code.

    The check of the exit code is on a separate line, so that a command may end in `&`, a comment or a here-document.
    The empty line before it ends a command with a trailing backslash. `set -e` is not enough: it ignores failures in
    conditions and pipelines.
    """
    return "".join(f"{command}\n\n{_COMMAND_STATUS}\n" for command in commands)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job of a run."""

    replica: int
    node: int
    nodes: int


class RegistryAuth(Spec):
    """The credentials for a private image.

    Examples:
        >>> RegistryAuth(username="me", password="…").username
        'me'
    """

    username: Text
    """The user name at the registry"""
    password: Text = Field(repr=False)
    """The password or access token"""


class RunFields(ProfileFields):
    """The fields of every run type."""

    name: Name | None = None
    """The run's name. A random name by default"""
    image: Image | None = None
    """The container image, such as `ubuntu:24.04`"""
    user: User | None = None
    """The user inside the container: `name_or_id[:group_name_or_id]`, such as `ubuntu` or `1000:1000`"""
    privileged: bool = False
    """Whether the container runs in privileged mode, with the rights of the host's root"""
    entrypoint: Annotated[str, AfterValidator(_words)] | None = None
    """The container's entrypoint, in shell syntax. The image's own by default"""
    working_dir: Place | None = None
    """The folder in which the commands start: a path relative to the run's files (`/workflow`), or an absolute path
    in a container. The folder of the run's files by default"""
    registry_auth: RegistryAuth | None = None
    """The credentials for a private image"""
    python: PythonVersion | None = None
    """The version of Python, such as `3.12`, of the machine or of the default image. Not with `image`"""
    nvcc: bool | None = None
    """Whether the default image includes NVIDIA's CUDA compiler. Not with `image`"""
    docker: bool | None = None
    """Whether the job can use Docker. Not with `image`"""
    env: Env = {}
    """Environment variables: a mapping, or a list of `NAME=value`, and of `NAME` to pass the submitter's value on"""
    resources: Resources = Field(default_factory=Resources.model_construct)
    """The required CPUs, memory, disk and GPUs"""
    volumes: list[MountPoint] = []
    """Volumes to mount: `name:/path` for a network volume, or `/path/on/instance:/path`; with `:ro` read-only"""
    files: list[FileMapping] = []
    """Local files and folders to send with the run: `local`, or `local:path/in/the/job`"""
    repos: Annotated[list[Repo], Field(json_schema_extra={"maxItems": 1})] = []
    """The folder or Git repository with the run's files: `.`, a URL, or a mapping; one at most"""
    single_branch: bool | None = None
    """Whether to clone only one branch of the repository. True by default"""
    setup: list[Text] = []
    """An old field without effect"""
    home_dir: str | None = None
    """An old field without effect"""
    priority: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    """The priority of the run in the queue: 0 to 100, higher first"""
    shell: Literal["bash", "sh"] | None = None
    """The shell that runs the commands: `bash` or `sh`. By default `bash` if it is installed"""

    without_effect: ClassVar[Mapping[str, str]] = {
        "setup": "write its commands at the beginning of `commands`, or of `init`",
        "home_dir": "leave it out; `working_dir` sets where commands start",
    }

    @classmethod
    def conflicts(cls, written: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield the conflicts between the written fields, as `Spec.conflicts`."""
        yield from super().conflicts(written)
        for field in ("python", "nvcc", "docker"):
            if written.get("image") is not None and written.get(field) not in (None, False):
                yield Conflict(field, f"expected `image` or `{field}`, found both; the image brings its own")
        repos = written.get("repos")
        if isinstance(repos, list) and len(repos) > 1:
            yield Conflict(
                "repos", f"expected one repo, found {len(repos)}: a run clones one; `files` brings folders beside it", 1
            )

    @classmethod
    def _types_with(cls, name: str) -> list[str]:
        from dstack.spec.kinds import RUN_TYPES  # it imports the modules of all types, which import this one

        return [kind for kind, spec in RUN_TYPES.items() if name in spec.model_fields]

    @abstractmethod
    def jobs(self) -> tuple[JobSpec, ...]:
        """Return the jobs with which the run begins, by replica and node."""

    @abstractmethod
    def script(self) -> str:
        """Return the script that each job runs."""

    @abstractmethod
    def port_mappings(self) -> tuple[PortMapping, ...]:
        """Return the ports of a job that `attach` forwards."""


def nothing_to_run(written: Mapping[str, Any]) -> Iterator[Conflict]:
    """Yield the conflict of a run that has neither commands nor an image."""
    if written.get("commands") or written.get("image") is not None:
        return
    if written.get("commands", ...) in (None, []):
        yield Conflict("commands", "`commands` is empty, and `image` is missing: there is nothing to run")
    else:
        yield Conflict(None, "expected `commands` or `image`, found neither: there is nothing to run")


def port_conflicts(written: Mapping[str, Any]) -> Iterator[Conflict]:
    """Yield a conflict for each port of the job that is listed twice."""
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
