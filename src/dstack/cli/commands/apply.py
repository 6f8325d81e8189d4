"""`dstack apply`: plan, ask, submit, and follow the run."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dstack.cli import files, options

if TYPE_CHECKING:
    from dstack.api import Client, LocalRepo, RemoteRepo, Run, RunPlan
    from dstack.api._ports import Reservation
    from dstack.protocol.views import ChangeView, RunView
    from dstack.spec.reading import Reading

HELP = "submit a run from a configuration file, or update the active one"
CHANGES = ("FIELD", "NOW", "THEN", "HOW")
OPEN = {"cpu": "CPU", "memory": "memory", "disk": "disk"}
"""Resources that a job on this machine may lack unless its configuration sets them."""
SHOWN_MAX = 24
"""The characters shown of a value that changes."""
CONTEXT = 8
"""The characters shown of the common beginning of two long values."""
NO_ENGINE = "there is no container engine"
HIDDEN = "(see `DSTACK_LOCAL_BACKEND`)"
NODES = "nodes at once"
NO_PYTHON, NO_IMAGE, ABSOLUTE = "`python: ", "`image: ", "`working_dir: /"

RELATIVE = (
    "An absolute `working_dir` is a folder in a container (`image`). "
    "Write a folder in the run's files without the leading `/`"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration, and the options that change it."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("file", nargs="?", default=argparse.SUPPRESS, metavar="FILE", help="the same as `-f FILE`")
    add_options(parser, which)


def add_options(parser: argparse.ArgumentParser, which: "argparse._ActionsContainer") -> None:
    """Add all but `FILE`; `which` takes `-f`, its equal."""
    which.add_argument(
        "-f", "--file", default=".dstack.yml", help="the configuration; `-` is stdin (default: %(default)s)"
    )
    parser.add_argument("-n", "--name", help="the run's name")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("-d", "--detach", action="store_true", help="submit and exit; do not follow the run")
    parser.add_argument("--force", action="store_true", help="replace the replicas of an active service at once")
    parser.add_argument("--json", action="store_true", help="print the run as JSON at its end instead of its log")
    options.add_repo(parser)
    options.add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit the run; return the job's exit code, or 0 for `--detach`."""
    from dstack.cli import configurations
    from dstack.cli.clients import client_of

    sources = configurations.sources_of(arguments.file, arguments)
    client = client_of(arguments)
    reading = configurations.read(client, sources)
    configurations.check_here(reading, arguments.name)
    repo = files.find_repo(client, reading, arguments)
    plan = _planned(client, reading, repo, arguments)
    if plan.view.current is not None:
        return _apply_to_active(client, plan, reading, repo, arguments)
    if not arguments.yes and not _confirmed(plan):
        return 1
    return _submit(client, plan, arguments)


def _planned(
    client: "Client",
    reading: "Reading",
    repo: "LocalRepo | RemoteRepo | None",
    arguments: argparse.Namespace,
) -> "RunPlan":
    """Return the plan, once it is shown.

    Raises:
        NoCapacityError: no machine fits.
    """
    from dstack.cli import words

    plan = client.runs.get_plan(
        reading,
        repo,
        configuration_path=None if arguments.file == "-" else arguments.file,
        run_name=arguments.name,
    )
    if not arguments.json:
        words.say(plan_text(plan))
    check(plan)
    if not arguments.json and (warning := files.left_behind(plan)) is not None:
        words.say_warning(warning)
    return plan


def _confirmed(plan: "RunPlan") -> bool:
    from dstack.cli import words

    name = f" `{plan.view.run_name}`" if plan.view.run_name else ""
    return words.confirmed(f"Submit the run{name}?", if_not="Nothing was submitted")


def _submit(
    client: "Client", plan: "RunPlan", arguments: argparse.Namespace, reserved: "Reservation | None" = None
) -> int:
    from dstack.cli import following, serving, words

    with words.StatusLine() as line:
        client.when_away(line.set)
        one = client.runs.exec_plan(
            plan,
            reserve_ports=reserved or not (arguments.detach or _is_service(plan)),  # these forward no ports
            progress=lambda sent, total: line.set(_sent(sent, total), is_lasting=False),
        )
    if arguments.detach:
        code = _detached(one, shows_output=not arguments.json)
    elif one.view.service is not None:
        code = serving.follow(one, shows_output=not arguments.json)
    else:
        code = following.follow(one, shows_log=not arguments.json)
    if arguments.json:
        words.show_json(one.view)
    if code and plan.repo is None and (hint := files.missing_text(one)) is not None:
        words.say(hint)
    return code


def _apply_to_active(
    client: "Client",
    plan: "RunPlan",
    reading: "Reading",
    repo: "LocalRepo | RemoteRepo | None",
    arguments: argparse.Namespace,
) -> int:
    """Update the active run of that name: in place or replica by replica where possible, else by a restart."""
    from dstack.cli import following, serving, words

    current = plan.view.current
    assert current is not None
    words.say(changes_text(plan, force=arguments.force))
    if not plan.changes and not (arguments.force and _has_rollout(current)):
        if arguments.json:
            words.show_json(current)
        elif current.service is not None and (one := client.runs.get(current.id)) is not None:
            serving.show_addresses(one)
        return 0
    if plan.is_update:
        return _update(client, plan, arguments)
    if not arguments.yes and not words.confirmed(
        f"Stop the run `{current.name}` and submit it again?", if_not="Nothing was stopped or submitted"
    ):
        return following.EXIT_ERROR
    reserved = None if arguments.detach or _is_service(plan) else _reserved(plan, current)
    _stop(client, current.id)
    anew = client.runs.get_plan(
        reading,
        repo,
        configuration_path=plan.draft.request.configuration_path,
        run_name=current.name,
    )
    return _submit(client, anew, arguments, reserved)


def _update(client: "Client", plan: "RunPlan", arguments: argparse.Namespace) -> int:
    from dstack.cli import following, serving, words

    current = plan.view.current
    assert current is not None
    how = " in place" if plan.is_in_place and plan.changes else ""
    if not arguments.yes and not words.confirmed(
        f"Update the run `{current.name}`{how}?", if_not="Nothing was updated"
    ):
        return following.EXIT_ERROR
    with words.StatusLine() as line:
        changed = client.runs.exec_plan(
            plan, force=arguments.force, progress=lambda sent, total: line.set(_sent(sent, total), is_lasting=False)
        )
    words.say(f"{changed.name}: updated" + (f"; {changed.detail}" if changed.detail else ""))
    is_followed = changed.view.service is not None and not arguments.detach
    code = serving.follow(changed, shows_output=not arguments.json) if is_followed else 0
    if arguments.json:
        words.show_json(changed.view)
    return code


def _has_rollout(current: "RunView") -> bool:
    """Return whether some replicas of a service are still to be replaced by those of its current revision."""
    return current.service is not None and current.service.is_rolling


def _reserved(plan: "RunPlan", current: "RunView") -> "Reservation":
    """Reserve the local ports of the new run before the active one is stopped for it.

    Raises:
        PortUsedError: a port is in use; the active run continues.
    """
    from dstack.api._attach import ports_freed_by
    from dstack.api._ports import Reservation

    freed = ports_freed_by(current)
    return Reservation({port: local for port, local in plan.draft.ports.items() if local not in freed})


def _stop(client: "Client", run_id: str) -> None:
    from dstack.cli import following, words

    former = client.runs.get(run_id)
    if former is not None:
        former.stop()
        with words.StatusLine() as line:
            line.set(f"{former.name}: stopping")
            following.wait_until_ended(former)


def plan_text(plan: "RunPlan") -> str:
    """Return the plan: the run's properties and the best offers."""
    import sys

    from dstack.cli import serving, words

    spec = plan.draft.request.configuration
    shown = {
        "Project": plan.view.project,
        "User": plan.view.user,
        "Configuration": plan.draft.request.configuration_path or "-",
        "Type": spec.get("type", "task"),
        **_resources(plan),
        **_runtime(plan),
        "Spot policy": spec.get("spot_policy", "on-demand"),
        "Max price": words.price(spec["max_price"]) if spec.get("max_price") else "off",
        "Max duration": str(spec.get("max_duration") or "off"),
    }
    shown["Files"] = files.plan_text(plan)
    if spec.get("type") == "dev-environment":
        shown["Inactivity"] = str(spec.get("inactivity_duration") or "off")
    if len(set(_ends(plan))) > 1:
        rule = serving.rule_text(spec["scaling"]["metric"], spec["scaling"]["target"])
        shown["Replicas"] = f"{spec['replicas']}, {rule}"
    if spec.get("schedule"):
        shown["Schedule"] = ", ".join(spec["schedule"]["cron"])
    width = max(map(len, shown))
    properties = "\n".join(
        words.wrapped(f"{name.ljust(width)}  {value}", sys.stderr, indent=" " * (width + 2))
        for name, value in shown.items()
    )
    if not plan.view.offers_total:
        return f"{properties}\n"
    offers = words.offers_table(plan.offers, plan.view.offers_total, plan.view.max_price, sys.stderr)
    is_new = plan.view.current is None
    waits = f"\nThe run would wait in the queue: {plan.view.waits}\n" if plan.view.waits and is_new else ""
    return f"{properties}\n\n{offers}\n{waits}"


def changes_text(plan: "RunPlan", *, force: bool = False) -> str:
    """Return the differences from the active run of that name, and what becomes of its replicas."""
    import sys

    from dstack.cli import words

    current = plan.view.current
    assert current is not None
    if not plan.changes:
        return (
            f"The run `{current.name}` is already {current.status} with this configuration; "
            f"`dstack attach --logs {current.name}` follows it"
        )
    rows = [(one.field, *_compared(one.old, one.new), _how(one, force=force)) for one in plan.changes]
    table = words.table(CHANGES, rows, file=sys.stderr)
    effect = f"\n{text}\n" if plan.is_update and (text := _effect_text(plan, force=force)) else ""
    return f"The run `{current.name}` is {current.status}. Changes:\n\n{table}\n{effect}"


def _how(change: "ChangeView", *, force: bool) -> str:
    if change.in_place:
        return "in place"
    return ("at once" if force else "replica by replica") if change.by_rollout else "by a restart"


def _effect_text(plan: "RunPlan", *, force: bool) -> str:
    """Return what becomes of a service's replicas; empty if they stay as they are."""
    current = plan.view.current
    before = None if current is None else current.replicas_asked
    if before is None:
        return ""
    least, most = _ends(plan)
    after = min(max(before, least), most)
    texts = []
    if any(change.by_rollout for change in plan.changes):
        how = "at once" if force else "one by one"
        texts.append(f"{_replicas(before, 'is', 'are')} replaced {how}")
    if after > before:
        texts.append(f"{_replicas(after - before, 'is', 'are')} added")
    if after < before:
        texts.append(f"{_replicas(before - after, 'ends once it has', 'end once they have')} answered all requests")
    return "; ".join(texts)


def _ends(plan: "RunPlan") -> tuple[int, int]:
    """Return the least and the greatest number of replicas."""
    least, _, most = str(plan.draft.request.configuration.get("replicas", "1")).partition("..")
    return int(least), int(most or least)


def _replicas(number: int, one: str, more: str) -> str:
    return f"1 replica {one}" if number == 1 else f"{number} replicas {more}"


def _compared(old: str | None, new: str | None) -> tuple[str, str]:
    """Return two values for a table; long ones are cut to begin shortly before their difference.

    Examples:
        >>> _compared("1h", None), _compared("echo " + "a" * 40 + "b", "echo " + "a" * 40 + "c")
        (('1h', '-'), ('…aaaaaaaab', '…aaaaaaaac'))
    """
    from dstack.cli import words

    texts = ["-" if value is None else " ".join(value.split()) for value in (old, new)]
    lengths = [len(text) for text in texts]
    alike = next((at for at in range(min(lengths)) if texts[0][at] != texts[1][at]), min(lengths))
    begin = max(alike - CONTEXT, 0) if max(lengths) > SHOWN_MAX else 0
    old_text, new_text = (words.cut(f"…{text[begin:]}" if begin else text, SHOWN_MAX) for text in texts)
    return old_text, new_text


def check(plan: "RunPlan") -> None:
    """Refuse a run that no machine fits, before the user is asked and files are sent."""
    from dstack.errors import NoCapacityError

    if not plan.view.offers_total:
        refusals = plan.view.refusals
        nearest = "\n  ".join([". The nearest:", *refusals])
        reason = nearest if len(refusals) > 1 else f": {next(iter(refusals), 'no backend has offers')}"
        raise NoCapacityError(f"No machine fits{reason}", hint=_way_out(refusals))


def _way_out(refusals: Sequence[str]) -> str:
    if refusals and all(NO_ENGINE in refusal for refusal in refusals):
        engine = (
            "Start Docker or Podman on the machine (Debian: `apt install docker.io`). "
            "For another socket, set `DOCKER_HOST` before the server starts"
        )
        if any(NO_PYTHON in refusal for refusal in refusals):
            return f"Install that Python, with its `venv`. Or: {engine}"
        if any(ABSOLUTE in refusal and NO_IMAGE not in refusal for refusal in refusals):
            return f"{RELATIVE}. Or: {engine}"
        return engine
    if refusals and all(HIDDEN in refusal for refusal in refusals):
        return "If all users trust each other, start the server with `DSTACK_LOCAL_BACKEND=1`"
    if refusals and refusals[0].endswith(NODES):
        return "Use fewer or smaller nodes"
    return "Lower the requirements, or leave out the fields that do not fit"


def _resources(plan: "RunPlan") -> dict[str, str]:
    """Return the line about the requirements. A server of an earlier version does not write them."""
    if not plan.view.resources:
        return {}
    wanted = plan.draft.request.configuration.get("resources") or {}
    unasked = ", ".join(name for field, name in OPEN.items() if field not in wanted)
    less = f"; not set, may be less: {unasked}" if unasked else ""
    return {"Resources": f"{plan.view.resources}{less}"}


def _runtime(plan: "RunPlan") -> dict[str, str]:
    if not plan.view.offers_total:
        return {}
    return {"Runtime": f"a container of `{plan.view.image}`" if plan.view.image else "a process"}


def _is_service(plan: "RunPlan") -> bool:
    return plan.draft.request.configuration.get("type") == "service"


def _detached(run: "Run", *, shows_output: bool) -> int:
    from dstack.cli import serving, words

    words.say(f"{run.name}: {run.status}{f', {run.detail}' if run.detail else ''}")
    if run.view.service is not None and shows_output:
        words.show(serving.addresses_text(run.view.service))
    words.say(f"`dstack attach --logs {run.name}` follows it, `dstack stop {run.name}` ends it")
    return 0


def _sent(sent_bytes: int, all_bytes: int) -> str:
    from dstack.cli import words

    return f"Sending files  {words.bar(sent_bytes, all_bytes)}  {sent_bytes / 1e6:.1f} of {all_bytes / 1e6:.1f} MB"
