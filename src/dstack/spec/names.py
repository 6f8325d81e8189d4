"""Names of runs: their form, and random ones."""

import re
from collections.abc import Sequence
from typing import Protocol

from dstack.errors import ConfigurationError
from dstack.kit.text import shown

NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")
OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,58}[a-z0-9])?")
"""The form of the names of users, projects, tokens and backends."""
HOSTS = frozenset(
    ("localhost", "broadcasthost", "ip6-allnodes", "ip6-allrouters", "ip6-localhost", "ip6-loopback", "ip6-localnet")
)
"""Names of every machine's own hosts and networks. `ssh NAME` must keep its meaning for them."""


def parse_name(value: str) -> str:
    """Return a run's name unchanged.

    Raises:
        ValueError: the name is malformed, or is the name of a host such as `localhost`.
    """
    if not NAME.fullmatch(value):
        raise ValueError(
            "expected a name of 2 to 41 lower-case letters, digits and `-`, beginning with a letter, "
            f"found {shown(value)}"
        )
    if value in HOSTS:
        raise ValueError(f"expected another name than that of a host, since `ssh {value}` leads there")
    return value


def check_name(name: str) -> None:
    """Raise `ConfigurationError` unless a run may have the name."""
    try:
        parse_name(name)
    except ValueError as error:
        raise ConfigurationError(
            f"`{name}` cannot be a run's name: {error}", hint="Try a name such as `train-1`"
        ) from None


class Chance(Protocol):
    """A source of random choices."""

    def choice(self, seq: Sequence[str], /) -> str: ...

    def randrange(self, stop: int, /) -> int: ...


_ADJECTIVES = (
    "able", "brave", "bright", "calm", "clever", "cool", "eager", "fair", "fast", "fine", "fresh", "gentle", "glad",
    "golden", "grand", "happy", "keen", "kind", "lively", "lucky", "merry", "mighty", "neat", "nice", "noble",
    "proud", "quick", "quiet", "rapid", "ready", "sharp", "silent", "silver", "smart", "smooth", "strong", "sunny",
    "swift", "tidy", "warm", "wise", "witty",
)  # fmt: skip
_ANIMALS = (
    "ant", "badger", "bear", "bee", "bison", "camel", "cat", "cobra", "crab", "crane", "deer", "dingo", "dog",
    "dolphin", "duck", "eagle", "falcon", "ferret", "finch", "fox", "frog", "gecko", "goat", "goose", "hare",
    "hawk", "heron", "horse", "ibex", "jackal", "koala", "lemur", "lion", "lizard", "llama", "lynx", "mole",
    "moose", "moth", "newt", "octopus", "otter", "owl", "panda", "parrot", "puma", "quail", "rabbit", "raven",
    "robin", "seal", "shark", "sheep", "sloth", "snail", "stork", "swan", "tiger", "toad", "trout", "turtle",
    "walrus", "whale", "wolf", "wombat", "yak", "zebra",
)  # fmt: skip


def random_name(chance: Chance) -> str:
    """Return a random name such as `swift-otter-7`."""
    return f"{chance.choice(_ADJECTIVES)}-{chance.choice(_ANIMALS)}-{chance.randrange(100)}"
