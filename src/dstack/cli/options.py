"""Options of several commands: changes to a configuration, and the files to send."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dstack.api import RemoteRepo

OVERRIDES = (
    *("backends", "regions", "instance_types", "spot_policy", "max_price", "max_duration"),
    *("working_dir", "priority", "creation_policy", "idle_duration", "fleets", "retry"),
)

RESOURCES = ("cpu", "memory", "gpu", "disk")
PORT_MAX = 65_535


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options that change the configuration."""
    change = parser.add_argument_group("changes to the configuration")
    change.add_argument(
        "-e", "--env", action="append", default=[], metavar="K=V", help="an environment variable; may be repeated"
    )
    add_requirements(change)
    change.add_argument("--max-duration", metavar="TIME", help="such as `2h`, or `off`")
    change.add_argument("--working-dir", metavar="DIR", help="the folder in which the commands start")
    change.add_argument("--priority", type=int, metavar="N", help="0 to 100")
    retry = change.add_mutually_exclusive_group()
    retry.add_argument("--retry", action="store_true", default=None, help="retry the run when it fails")
    retry.add_argument("--no-retry", action="store_false", dest="retry", help="do not retry the run")
    change.add_argument("--profile", metavar="NAME", help="the profile for settings that the configuration lacks")


def add_requirements(change: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """Add the options that set requirements for machines."""
    change.add_argument("--cpu", metavar="RANGE", help="such as `4` or `2..8`")
    change.add_argument("--memory", metavar="RANGE", help="such as `16GB` or `16GB..`")
    change.add_argument("--gpu", metavar="SPEC", help="such as `A100:40GB:2`")
    change.add_argument("--disk", metavar="RANGE", help="such as `200GB..`")
    for option, field, metavar, what in (
        (("-b", "--backend"), "backends", "NAME", "a backend: its type, such as `aws`, or its name"),
        (("-r", "--region"), "regions", "NAME", "a region of a backend"),
        (("--instance-type",), "instance_types", "NAME", "a backend's name of a kind of machine"),
        (("--fleet",), "fleets", "NAME", "a fleet of the project"),
    ):
        change.add_argument(*option, action="append", dest=field, metavar=metavar, help=f"{what}; may be repeated")
    spot = change.add_mutually_exclusive_group()
    spot.add_argument("--spot", action="store_const", dest="spot_policy", const="spot", help="spot instances only")
    spot.add_argument(
        "--on-demand", action="store_const", dest="spot_policy", const="on-demand", help="on-demand instances only"
    )
    spot.add_argument(
        "--spot-auto", action="store_const", dest="spot_policy", const="auto", help="spot or on-demand instances"
    )
    change.add_argument("--max-price", type=float, metavar="DOLLARS", help="the maximum price per hour")
    change.add_argument(
        "-R", "--reuse", action="store_const", dest="creation_policy", const="reuse", help="use existing instances only"
    )
    change.add_argument("--idle-duration", metavar="TIME", help="how long a new instance may be idle")


def port(text: str) -> int:
    """Return the port that an argument names; 0 means any free port."""
    if not (text.isascii() and text.isdigit() and int(text) <= PORT_MAX):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {PORT_MAX}, found `{text}`")
    return int(text)


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose one of a run's jobs."""
    parser.add_argument("--replica", type=int, default=0, metavar="N", help="the replica (default: 0)")
    parser.add_argument("--job", type=int, default=0, metavar="N", help="the job of the replica (default: 0)")


def add_repo(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the files to send."""
    files = parser.add_argument_group("files to send")
    which = files.add_mutually_exclusive_group()
    which.add_argument(
        "--repo", metavar="DIR|URL", help="a folder or a Git remote (default: this folder, after `dstack init`)"
    )
    which.add_argument("--no-repo", action="store_true", help="send no files")
    files.add_argument("--local", action="store_true", help="send the folder as it is, even if it has a Git remote")
    files.add_argument(
        "--branch", metavar="NAME", help="the branch or tag of a remote given by URL (default: its HEAD)"
    )
    files.add_argument("--hash", metavar="COMMIT", help="the commit of a remote given by URL")


def changes_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the changes of the command line, as plain data."""
    changes = {field: value for field in OVERRIDES if (value := getattr(arguments, field, None)) is not None}
    if resources := {name: value for name in RESOURCES if (value := getattr(arguments, name))}:
        changes["resources"] = resources
    if given := getattr(arguments, "env", None):
        changes["env"] = {name: value if mark else None for name, mark, value in (one.partition("=") for one in given)}
    return changes


def find_remote(where: str | None, branch: str | None, commit: str | None) -> "RemoteRepo | None":
    """Return the remote of a URL; None for a folder, or for nothing.

    Raises:
        ConfigurationError: the URL is not a Git remote, or a branch or commit has no URL.
    """
    from dstack.api import RemoteRepo
    from dstack.errors import ConfigurationError
    from dstack.kit.git import is_remote

    if where is not None and ("://" in where or is_remote(where)):
        if branch is None and commit is None:  # the remote's HEAD
            from dstack.api._git import normal_url

            url, token = normal_url(where)
            return RemoteRepo(url, token=token)
        return RemoteRepo.from_url(where, branch, commit)
    if branch is not None or commit is not None:
        raise ConfigurationError(
            "`--branch` and `--hash` need a remote given by URL",
            hint="Pass a URL to `--repo`, or check out the commit in the folder",
        )
    return None
