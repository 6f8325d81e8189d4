"""The program that writes `dstack.api.aio`, with a toy shop for `dstack.api`."""

import asyncio
import inspect
import threading
from textwrap import dedent
from typing import Any

import pytest
from scripts import write_aio
from scripts.write_aio import AIO, aio_modules

from dstack.api.aio._threads import Threads

SHOP = '''
class Client:
    """A client of a shop.

    Args:
        server: the shop's server.
        town: the town of the shop.
    """

    def __init__(self, server: "Server", town: str) -> None:
        self.town = town
        self._server = server

    @staticmethod
    def from_config(town: str | None = None) -> "Client":
        """Return a client."""

    @cached_property
    def toys(self) -> "ToyCollection":
        """The toys of the shop."""

    def close(self) -> None:
        """Close the connections."""
'''

TOYS = '''
import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dstack.api._context import Context


class Shelf:
    """The part that counts."""

    @property
    def size(self) -> int:
        """The number of toys."""
        return 2


class Price:
    """A value without a connection."""

    def of(self) -> Decimal:
        """Return the price."""


class Toy:
    """One toy."""

    def __init__(self, context: "Context", name: str) -> None:
        self._context = context
        self.name = name

    def squeak(self) -> "Toy":
        """Return this toy."""
        return self


class ToyCollection:
    """The toys of one shop.

    Examples:
        >>> from dstack.api import Client
        >>> toys = Client.from_config().toys
        >>> [toy.squeak().name for toy in toys.follow()]
        ['bear', 'duck']
        >>> next(toys.names(2))
        'bear'
        >>> sorted(toys.names(1)), toys.find("bear").name
        (['bear'], 'bear')
    """

    def __init__(self, context: "Context") -> None:
        self._context = context

    def __repr__(self) -> str:
        return "<toys>"

    @property
    def size(self) -> int:
        """The number of toys."""
        return 2

    def find(self, name: str, *, colour: "Literal['red', 'blue'] | None" = None) -> "Toy | None":
        """Return a toy; None if it is missing.

        Args:
            name: the toy's name.
            colour: its colour.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().toys.find("no-such-toy") is None
            True

        Raises:
            LookupError: the shop is closed.
        """
        return self._found(name, colour)

    def list(self) -> "list[Toy]":
        """Return all toys."""
        return [Toy(self._context, "bear"), Toy(self._context, "duck")]

    def names(self, count: int = 1) -> "Iterator[str]":
        """Yield names."""
        yield from ["bear", "duck"][:count]

    def follow(self) -> "Iterator[Toy]":
        """Yield toys."""
        yield from self.list()

    def thread(self, *names: str, path: str | os.PathLike[str] = ".", **prices: int) -> tuple[str, ...]:
        """Return the name of the thread, and the arguments."""
        return threading.current_thread().name, *names, path, *prices

    def first(self, name: str) -> "Toy":
        """Return the first toy, as `list` does."""
        toys = self.list()
        self.find(name, colour="red")
        return toys[0]

    def _found(self, name: str, colour: str | None) -> "Toy | None":
        return Toy(self._context, f"{colour} {name}")
'''

PACKAGE = """
if TYPE_CHECKING:
    from dstack.api.aio._gone import Gone as Gone

_OWN = {"Gone": "dstack.api.aio._gone"}
"""

HOMES = {
    "Client": "dstack.api._shop",
    "Price": "dstack.api._toys",
    "Toy": "dstack.api._toys",
    "ToyCollection": "dstack.api._toys",
}


def written(toys: str = TOYS, homes: dict[str, str] = HOMES) -> dict[str, str]:
    return aio_modules(homes, {"dstack.api._shop": SHOP, "dstack.api._toys": toys, AIO: PACKAGE}.__getitem__)


@pytest.fixture(scope="module")
def text() -> str:
    return written()["dstack.api.aio._toys"]


@pytest.fixture(scope="module")
def sync() -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "sync"}
    exec(TOYS, namespace)
    return namespace


@pytest.fixture
def toys(text: str, sync: dict[str, Any]) -> Any:
    namespace: dict[str, Any] = {"__name__": "asyncio_form"}
    exec(text, namespace)
    return namespace["ToyCollection"](sync["ToyCollection"](None), Threads())


def test_members_have_the_same_parameters_and_no_private_one_is_there(toys: Any, sync: dict[str, Any]) -> None:
    def shape(member: Any) -> list[Any]:
        return [(one.name, one.kind, one.default) for one in inspect.signature(member).parameters.values()]

    members = {name: one for name, one in vars(sync["ToyCollection"]).items() if inspect.isfunction(one)}
    public = {name for name in members if not name.startswith("_")}
    assert public == {name for name, one in vars(type(toys)).items() if inspect.isfunction(one) and name[0] != "_"}
    assert all(shape(getattr(type(toys), name)) == shape(members[name]) for name in public)
    assert not hasattr(toys, "_found")


def test_calls_are_made_in_a_thread_with_all_arguments(toys: Any) -> None:
    thread, *given = asyncio.run(toys.thread("a", "b", path="/", duck=1))
    assert thread.startswith("dstack-call") and given == ["a", "b", "/", "duck"]
    assert thread != threading.current_thread().name


def test_properties_and_iterators_come_over(toys: Any) -> None:
    async def read() -> list[str]:
        return [name async for name in toys.names(count=2)]

    assert (toys.size, repr(toys)) == (2, "<toys>")
    assert asyncio.run(read()) == ["bear", "duck"]


def test_results_that_send_requests_are_of_the_asyncio_form(toys: Any) -> None:
    async def use() -> list[Any]:
        return [await toys.find("bear", colour="red"), *await toys.list(), *[toy async for toy in toys.follow()]]

    found = asyncio.run(use())
    assert [one.name for one in found] == ["red bear", "bear", "duck", "bear", "duck"]
    assert {type(one).__module__ for one in found} == {"asyncio_form"}


def test_method_that_returns_its_own_object_does_so_in_the_asyncio_form(toys: Any) -> None:
    async def use() -> bool:
        toy = await toys.find("bear")
        return await toy.squeak() is toy

    assert asyncio.run(use())


def test_method_that_only_calls_others_is_translated_so_that_it_can_be_cancelled_between_them(text: str) -> None:
    body = text.partition("async def first")[2].partition('"""Return the first toy, as `list` does."""\n')[2]
    assert dedent(body).splitlines()[:3] == [
        "toys = await self.list()",
        'await self.find(name, colour="red")',
        "return toys[0]",
    ]


def test_method_that_may_take_hours_has_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "await self._threads.call(self._toys.thread, *names" in written()["dstack.api.aio._toys"]
    monkeypatch.setattr(write_aio, "WAITS", {"ToyCollection.thread"})
    assert "await self._threads.wait(self._toys.thread, *names" in written()["dstack.api.aio._toys"]


def test_example_becomes_one_of_asyncio(text: str) -> None:
    example = dedent(text.partition("class ToyCollection")[2].partition("Examples:\n")[2].partition('    """')[0])
    assert example == dedent("""\
        >>> import asyncio
        >>> from dstack.api.aio import Client
        >>> async def main():
        ...     async with Client.from_config() as client:
        ...         toys = client.toys
        ...         print([(await toy.squeak()).name async for toy in toys.follow()])
        ...         print(await anext(toys.names(2)))
        ...         print((sorted([item async for item in toys.names(1)]), (await toys.find("bear")).name))
        >>> asyncio.run(main())
        ['bear', 'duck']
        bear
        (['bear'], 'bear')
    """)


def test_sections_of_a_docstring_stay_in_order(text: str) -> None:
    about = inspect.cleandoc(text.partition("async def find")[2].split('"""')[1])
    titles = [line for line in about.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Args:", "Examples:", "Raises:"]
    assert "\n\nRaises:\n    LookupError: the shop is closed." in about


def test_client_closes_itself_and_has_the_attributes_of_the_other() -> None:
    text = written()["dstack.api.aio._shop"]
    assert '"""A client of a shop. As an asynchronous context manager, it closes itself."""' in text
    assert 'def town(self) -> str:\n        """The town of the shop."""\n        return self._client.town' in text
    assert "return Client(api.Client.from_config(town))" in text
    assert "return ToyCollection(self._client.toys, self._threads)" in text
    assert "await self._threads.wait(self._client.close)\n        self._threads.close()" in text


def test_new_class_needs_no_other_change_and_one_without_a_connection_is_left_out(text: str) -> None:
    package = written()[AIO]
    assert "    from dstack.api.aio._toys import ToyCollection as ToyCollection\n" in package
    assert '"ToyCollection": "dstack.api.aio._toys"}' in package
    assert "Gone" not in package and "Price" not in package + text and "Decimal" not in text


def test_base_in_another_module_is_written_there() -> None:
    own = TOYS.replace("class ToyCollection:", "from dstack.api._shelf import Shelf\n\nclass ToyCollection(Shelf):")
    sources = {"dstack.api._shop": SHOP, "dstack.api._toys": own, "dstack.api._shelf": TOYS, AIO: PACKAGE}
    found = aio_modules(HOMES, sources.__getitem__)
    assert "class ToyCollection(Shelf):" in found["dstack.api.aio._toys"]
    assert "from dstack.api.aio._shelf import Shelf" in found["dstack.api.aio._toys"]
    assert "def __init__(self, toys: api.ToyCollection, threads: Threads)" in found["dstack.api.aio._shelf"]


def test_unknown_form_of_a_result_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"`ToyCollection.list` returns `dict\[str, Toy\]`"):
        written(TOYS.replace('def list(self) -> "list[Toy]"', 'def list(self) -> "dict[str, Toy]"'))


def test_module_that_a_program_writes_carries_a_line_that_names_the_program(text: str) -> None:
    assert text.startswith('"""The asyncio form of `dstack.api._toys`. Written by `make docs`; do not edit."""\n')
