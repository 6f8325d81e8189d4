"""The pages in which an agent welcomes a server, so that none is longer than a frame may be."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from dstack.protocol.agent import ORDER_FIELDS, PAGED_SINCE, HostResources, JobReport, to_json

PAGE_BYTES_MAX = 256 << 10
"""Of the reports on a page. A server takes four times as much."""

Frame = dict[str, Any]


def welcome_pages(
    version: int, resources: HostResources, ssh: Frame | None, reports: Iterable[JobReport]
) -> Iterator[Frame]:
    """Return the frames of a welcome. A server of the first version gets one, however long.

    Args:
        version: of the protocol, as both sides speak it.
        ssh: port and host key of the SSH server, if it is ready.
    """
    first: Frame = {
        "t": "welcome",
        "agent": {"v": version, "order": ORDER_FIELDS},
        "resources": to_json(resources),
        "ssh": ssh,
    }
    bodies = [to_json(report) for report in reports]
    pages = list(_pages(bodies)) if version >= PAGED_SINCE else [bodies]
    for number, page in enumerate(pages, 1):
        yield {**(first if number == 1 else {"t": "jobs"}), "jobs": page, "more": number < len(pages)}


def _pages(bodies: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Return reports in lists, none too long; at least one list."""
    page, size = list[Frame](), 0
    for body in bodies:
        length = len(json.dumps(body))
        if page and size + length > PAGE_BYTES_MAX:
            yield page
            page, size = [], 0
        page.append(body)
        size += length
    yield page
