"""Options of several commands: the configuration, changes to it, and the files to send."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dstack.api import RemoteRepo
    from dstack.spec.configurations import RunConfiguration
    from dstack.spec.profile import Profile

OVERRIDES = (
    *("backends", "regions", "instance_types", "spot_policy", "max_price", "max_duration"),
    *("working_dir", "priority", "creation_policy", "idle_duration", "fleets", "retry"),
)

PORT_MAX = 65_535
NAMED_MAX = 5
"""The most configurations that a hint names."""


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
    change.add_argument("-b", "--backend", action="append", dest="backends", metavar="NAME", help="may be repeated")
    change.add_argument("-r", "--region", action="append", dest="regions", metavar="NAME", help="may be repeated")
    change.add_argument(
        "--instance-type", action="append", dest="instance_types", metavar="NAME", help="may be repeated"
    )
    change.add_argument("--fleet", action="append", dest="fleets", metavar="NAME", help="may be repeated")
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


def changed(configuration: "RunConfiguration", arguments: argparse.Namespace) -> "RunConfiguration":
    """Return the configuration with the changes of the command line.

    Raises:
        ConfigurationError: a change is not valid.
    """
    from dstack.spec.parse import configuration_of, to_mapping
    from dstack.spec.spellings import over

    fields = {field: value for field in OVERRIDES if (value := getattr(arguments, field, None)) is not None}
    resources = {name: value for name in ("cpu", "memory", "gpu", "disk") if (value := getattr(arguments, name))}
    drops_repos = getattr(arguments, "no_repo", False) and bool(configuration.repos)
    if not (fields or resources or drops_repos or getattr(arguments, "env", None)):
        return configuration
    mapping = over(to_mapping(configuration), fields)
    if resources:
        mapping["resources"] = {**mapping.get("resources", {}), **resources}
    if drops_repos:
        mapping.pop("repos", None)
    if getattr(arguments, "env", None):
        mapping["env"] = {**mapping.get("env", {}), **_variables(arguments.env)}
    return configuration_of(mapping)


def check_here(configuration: "RunConfiguration", name: str | None) -> None:
    """Check the name and the variables, which needs no server.

    Raises:
        ConfigurationError: the name is not valid, or a variable to pass on is missing.
    """
    import os

    from dstack.spec import env
    from dstack.spec.names import check_name

    if name is not None:
        check_name(name)
    env.resolve(configuration.env, os.environ)


def _variables(given: list[str]) -> Mapping[str, str | None]:
    return {name: value if mark else None for name, mark, value in (one.partition("=") for one in given)}


def read_run(file: str) -> "RunConfiguration":
    """Return the run's configuration in a file (`-` is stdin), and write warnings about old spellings.

    Raises:
        ConfigurationError: the file is missing, has mistakes, or does not configure a run.
    """
    import warnings

    from dstack.cli import words
    from dstack.errors import ConfigurationError
    from dstack.spec.parse import read_configuration
    from dstack.spec.run import RunFields

    written = read_configuration(text_of(file), "stdin" if file == "-" else file)
    for note in written.notes:
        words.say_warning(note)
        warnings.simplefilter("ignore", DeprecationWarning)  # the Python API would repeat it without the place
    if isinstance(written.configuration, RunFields):
        return written.configuration
    raise ConfigurationError(
        f"`{file}` is a {written.configuration.type}, which this version of dstack does not support yet",
        hint="This version runs tasks, services and dev environments",
    )


def text_of(file: str) -> str:
    """Return the text of a file; `-` is stdin.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    import sys
    from pathlib import Path

    from dstack.errors import ConfigurationError

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no file `{file}`", hint=_advice(Path(file).parent)) from error
    except OSError as error:
        raise ConfigurationError(f"`{file}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"`{file}` is not UTF-8 text", hint="Save it as UTF-8") from error


def _advice(folder: "Path") -> str:
    """Return a hint for a configuration that is missing."""
    from dstack.kit.text import listed

    found = sorted(str(path) for path in folder.glob("*.dstack.yml"))[:NAMED_MAX]
    such_as = f", such as {listed(found)}" if found else ""
    return f"Name the configuration with `-f FILE`{such_as}; `-f -` reads it from stdin"


def find_profile(name: str | None) -> "Profile | None":
    """Return the profile of that name, or the default one: of this folder, or else of this user.

    Raises:
        ConfigurationError: a file of profiles has mistakes, or no file has that profile.
    """
    from pathlib import Path

    from dstack.api._places import home
    from dstack.errors import ConfigurationError
    from dstack.kit.text import listed, nearest

    known: list[str] = []
    for path in (Path(".dstack/profiles.yml"), home() / "profiles.yml"):
        if path.is_file():
            from dstack.spec.parse import parse_profiles

            profiles = parse_profiles(text_of(str(path)), str(path))
            if (found := profiles.chosen(name)) is not None:
                return found
            known += [profile.name for profile in profiles.profiles]
    if name is None:
        return None
    guess = nearest(name, known)
    raise ConfigurationError(
        f"There is no profile `{name}`" + (f"; did you mean `{guess}`?" if guess else f"; known are {listed(known)}")
        if known
        else f"There is no profile `{name}`: no file has profiles",
        hint="Add it to `.dstack/profiles.yml` or `~/.dstack/profiles.yml`",
    )


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
