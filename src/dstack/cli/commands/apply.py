"""`dstack apply`: plan, ask, submit, and go along with the run."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dstack.api import Run, RunPlan
    from dstack.spec.parse import RunConfiguration

HELP = "submit a run from a configuration file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, and what to change in it."""
    parser.add_argument("-f", "--file", default=".dstack.yml", help="the file; `-` is stdin (default: %(default)s)")
    parser.add_argument("--repo", metavar="DIR", help="the folder to send with the run")
    parser.add_argument("-n", "--name", help="the run's name")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("-d", "--detach", action="store_true", help="submit, and leave")
    parser.add_argument("--json", action="store_true", help="show the run as JSON in the end, and not its log")
    change = parser.add_argument_group("what to change in the configuration")
    change.add_argument("-e", "--env", action="append", default=[], metavar="K=V", help="a variable; may be repeated")
    change.add_argument("--cpu", metavar="RANGE", help="such as `4` or `2..8`")
    change.add_argument("--memory", metavar="RANGE", help="such as `16GB` or `16GB..`")
    change.add_argument("--gpu", metavar="SPEC", help="such as `A100:40GB:2`")
    change.add_argument("-b", "--backend", action="append", dest="backends", metavar="NAME", help="may be repeated")
    change.add_argument("-r", "--region", action="append", dest="regions", metavar="NAME", help="may be repeated")
    spot = change.add_mutually_exclusive_group()
    spot.add_argument("--spot", action="store_const", dest="spot_policy", const="spot", help="spot instances only")
    spot.add_argument("--on-demand", action="store_const", dest="spot_policy", const="on-demand", help="no spot ones")
    change.add_argument("--max-price", type=float, metavar="DOLLARS", help="the highest price an hour")
    change.add_argument("--max-duration", metavar="TIME", help="such as `2h`")


def run(arguments: argparse.Namespace) -> int:
    """Submit the run; returns the job's exit code, or 0 where it was only submitted."""
    from dstack.api import LocalRepo
    from dstack.cli import following, words
    from dstack.cli.clients import client_of

    client = client_of(arguments)
    repo = LocalRepo.from_dir(arguments.repo) if arguments.repo else None
    configuration = changed(_read(arguments.file), arguments)
    plan = client.runs.get_plan(
        configuration,
        repo,
        configuration_path=None if arguments.file == "-" else arguments.file,
        run_name=arguments.name,
    )
    _check(plan)
    if not arguments.json:
        words.say(plan_text(plan))
    name = f" `{plan.view.run_name}`" if plan.view.run_name else ""
    if not arguments.yes and not words.confirmed(f"Submit the run{name}?"):
        return following.EXIT_ERROR
    with words.StatusLine() as line:
        one = client.runs.exec_plan(plan, progress=lambda sent, total: line.set(_sent(sent, total), is_lasting=False))
    code = _detached(one) if arguments.detach else following.follow(one, shows_log=not arguments.json)
    if arguments.json:
        words.show(one.view.model_dump_json(indent=2))
    return code


def changed(configuration: "RunConfiguration", arguments: argparse.Namespace) -> "RunConfiguration":
    """The configuration with what the command line says in its place.

    Raises:
        ConfigurationError: what it says does not fit.
    """
    from dstack.spec.parse import configuration_of, to_mapping

    mapping = to_mapping(configuration)
    for field in ("backends", "regions", "spot_policy", "max_price", "max_duration"):
        if getattr(arguments, field) is not None:
            mapping[field] = getattr(arguments, field)
    resources = {name: getattr(arguments, name) for name in ("cpu", "memory", "gpu") if getattr(arguments, name)}
    if resources:
        mapping["resources"] = {**mapping.get("resources", {}), **resources}
    if arguments.env:
        given = {name: value if mark else None for name, mark, value in (one.partition("=") for one in arguments.env)}
        mapping["env"] = {**mapping.get("env", {}), **given}
    return configuration_of(mapping)


def plan_text(plan: "RunPlan") -> str:
    """What the run would be, and what it could run on."""
    from dstack.cli import words

    spec = plan.draft.request.configuration
    shown = {
        "Project": plan.view.project,
        "User": plan.view.user,
        "Configuration": plan.draft.request.configuration_path or "-",
        "Type": spec.get("type", "task"),
        "Resources": _resources(spec),
        "Spot policy": spec.get("spot_policy", "on-demand"),
        "Max price": words.price(spec["max_price"]) if spec.get("max_price") else "off",
        "Max duration": str(spec.get("max_duration") or "off"),
    }
    width = max(map(len, shown))
    properties = "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items())
    offers = words.offers_table(plan.offers, plan.view.offers_total, plan.view.max_price)
    waits = f"\nIt would wait in the queue: {plan.view.waits}\n" if plan.view.waits else ""
    return f"{properties}\n\n{offers}\n{waits}"


def _read(file: str) -> "RunConfiguration":
    from dstack.cli import words
    from dstack.errors import ConfigurationError
    from dstack.spec.dev_environment import DevEnvironment
    from dstack.spec.parse import read_configuration
    from dstack.spec.service import Service
    from dstack.spec.task import Task

    written = read_configuration(_text_of(file), "stdin" if file == "-" else file)
    for note in written.notes:
        words.say(f"warning: {note}")
    match written.configuration:
        case Task() | Service() | DevEnvironment() as configuration:
            return configuration
        case other:
            raise ConfigurationError(
                f"`{file}` is a {other.type}, which this version of dstack cannot make yet",
                hint="It can run tasks, services and dev environments",
            )


def _text_of(file: str) -> str:
    import sys
    from pathlib import Path

    from dstack.errors import ConfigurationError

    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no file `{file}`", hint="Name the configuration with `-f FILE`; `-f -` reads it from stdin"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"`{file}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"`{file}` is not UTF-8 text", hint="Save it as UTF-8") from error


def _check(plan: "RunPlan") -> None:
    """Refuse what cannot work before anything is asked or sent."""
    from dstack.errors import NoCapacityError, ResourceExistsError

    current = plan.view.current
    if current is not None:
        raise ResourceExistsError(
            f"The run `{current.name}` is {current.status} already",
            hint=f"Stop it with `dstack stop {current.name}`, or give this one another name with `-n`",
        )
    if not plan.view.offers_total:
        raise NoCapacityError(
            f"No machine fits: {'; '.join(plan.view.refusals) or 'no backend offers anything'}",
            hint="Ask for less, or allow other backends",
        )


def _resources(spec: dict[str, Any]) -> str:
    from dstack.spec.resources import Resources, describe

    wanted = spec.get("resources") or {}
    text = describe(Resources.model_validate(wanted))
    return text if wanted else f"{text}; nothing was asked, so this machine may have less"


def _detached(run: "Run") -> int:
    from dstack.cli import words

    words.say(f"{run.name}: {run.status}")
    words.say(f"`dstack attach --logs {run.name}` goes along with it, `dstack stop {run.name}` ends it")
    return 0


def _sent(sent_bytes: int, all_bytes: int) -> str:
    return f"Sending files: {sent_bytes / 1e6:.1f} of {all_bytes / 1e6:.1f} MB"
