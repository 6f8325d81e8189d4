"""Agents of other versions, as far as a server notices: how they welcome it, and what they send."""

from collections.abc import Iterable, Iterator
from typing import Any

from dstack.agent.welcome import welcome_pages
from dstack.protocol.agent import (
    FIRST_ORDER_FIELDS,
    ORDER_FIELDS,
    VERSION,
    HostResources,
    JobOrder,
    JobReport,
    order_of,
    shared_version,
)

Frame = dict[str, Any]


class Speaker:
    """The present version."""

    knows_services = True
    """Whether it reports that replicas are ready."""

    def welcome(self, hello: Frame, resources: HostResources, reports: Iterable[JobReport]) -> list[Frame] | None:
        """Return the answer to a `hello`; None where no version is shared."""
        version = shared_version(hello["v"], hello["newest"])
        return None if version is None else list(welcome_pages(version, resources, None, reports))

    def order_of(self, body: Frame) -> JobOrder:
        """Return an order. Raises `ValueError` where it is not understood."""
        return order_of(body)

    def dressed(self, frame: Frame) -> Iterator[Frame]:
        """Return what is sent where the present version sends this frame."""
        yield frame


class OlderSpeaker(Speaker):
    """The first version: it knows neither pages nor later fields of an order, and refuses a server of another."""

    knows_services = False

    def welcome(self, hello: Frame, resources: HostResources, reports: Iterable[JobReport]) -> list[Frame] | None:
        """Return one page."""
        if hello["v"] != 1:
            return None
        (page,) = welcome_pages(1, resources, None, reports)
        del page["more"]
        return [{**page, "agent": {}}]

    def order_of(self, body: Frame) -> JobOrder:
        """Return an order of the fields that the first version has."""
        if unknown := body.keys() - FIRST_ORDER_FIELDS:
            raise ValueError(f"JobOrder has no field {min(unknown)}")
        return order_of(body)


class NewerSpeaker(Speaker):
    """The next version: it speaks this one with fields and messages of its own."""

    def welcome(self, hello: Frame, resources: HostResources, reports: Iterable[JobReport]) -> list[Frame] | None:
        """Return pages with unknown fields."""
        if hello["newest"] < VERSION:
            return None
        pages = list(welcome_pages(VERSION, resources, None, reports))
        pages[0] |= {"mood": "good", "agent": {"v": VERSION, "order": [*ORDER_FIELDS, "quantum"], "colours": 3}}
        return [*pages, {"t": "weather"}]

    def dressed(self, frame: Frame) -> Iterator[Frame]:
        """Return the frame with an unknown field, and after a report a message of an unknown type."""
        yield {**frame, "mood": "good"}
        if frame["t"] == "job":
            yield {"t": "weather", "of": frame["report"]["job_id"]}
