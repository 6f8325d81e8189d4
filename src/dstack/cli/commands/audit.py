"""`dstack audit`: the machines of every backend, compared with the record."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.protocol.backends import AuditView

HELP = "compare the machines of all backends with the record"
HEADERS = ("BACKEND", "MACHINE", "INSTANCE", "PRICE", "STATE", "DETAIL")
SHOWN_MAX = 20
"""The longest name that a terminal shows in full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the format."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the machines; return 1 where one is not claimed or a backend does not answer."""
    import sys

    from dstack.cli import words
    from dstack.cli.clients import client_of

    found = client_of(arguments).audit()
    if arguments.json:
        words.show_json(found)
    else:
        if found.machines:
            words.show(table_of(found, is_short=sys.stdout.isatty()))
        words.show(summary_of(found))
    return int(bool(found.silent) or any(machine.state != "claimed" for machine in found.machines))


def table_of(found: "AuditView", *, is_short: bool) -> str:
    """Return the table; on a terminal without a column that would repeat the machines' names."""
    from dstack.cli import words

    rows = rows_of(found, is_short=is_short)
    is_same = is_short and all(machine == instance for _, machine, instance, *_ in rows)
    shown = [column for column in range(len(HEADERS)) if not (is_same and HEADERS[column] == "INSTANCE")]
    picked = ([row[column] for column in shown] for row in rows)
    return words.table([HEADERS[column] for column in shown], picked, is_fitted=True)


def rows_of(found: "AuditView", *, is_short: bool = False) -> list[tuple[str, ...]]:
    """Return the table's rows; differences come first. `is_short` shows only the ends of long names, which differ."""
    from dstack.cli import words

    machines = sorted(found.machines, key=lambda one: (one.state == "claimed", one.backend, one.machine_id))
    return [
        (
            one.backend,
            _end_of(one.machine_id) if is_short else one.machine_id,
            _end_of(one.instance_id) if is_short else one.instance_id,
            "" if one.price is None else words.price(one.price),
            one.state,
            one.detail,
        )
        for one in machines
    ]


def _end_of(name: str) -> str:
    from dstack.kit.ids import short_id

    return name if len(name) <= SHOWN_MAX else short_id(name)


def summary_of(found: "AuditView") -> str:
    """Return a summary such as `3 machines: 2 claimed, 1 orphan`."""
    from collections import Counter

    counts = Counter(machine.state for machine in found.machines)
    states = ", ".join(f"{counts[state]} {state}" for state in sorted(counts))
    total = len(found.machines)
    said = f"{total} {'machine' if total == 1 else 'machines'}" + (f": {states}" if states else "")
    return said + "".join(f"; {name} does not answer" for name in found.silent)
