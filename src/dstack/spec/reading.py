"""The canonical form of a configuration: its profile below it, changes above it, and only the fields that were set."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dstack.errors import ConfigurationError
from dstack.kit.text import listed, nearest
from dstack.spec.backends import why_unknown
from dstack.spec.kinds import RUN_TYPES, TYPES
from dstack.spec.mistakes import Mistake, Mistaken, Path
from dstack.spec.spellings import over

if TYPE_CHECKING:
    from dstack.spec.configurations import RunConfiguration

S = TypeVar("S")
T = TypeVar("T")

OF_PROFILES = frozenset(("name", "default"))
"""The fields of a profile that are not those of a run."""
PARTS = ("env", "resources")
"""Mappings whose entries are changed one by one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration in canonical form."""

    configuration: dict[str, Any]
    """The configuration as a JSON object, with its `type`, and only the fields that were set."""
    ports: Mapping[int, int | None]
    """Container port to local port; None stands for any free one."""
    notes: Sequence[Mistake] = ()
    """Old spellings in the configuration as written."""


def read(
    configuration: object,
    changes: Mapping[str, Any],
    profiles: Sequence[object],
    profile: str | None,
    backends: Collection[str] | None = None,
) -> Reading:
    """Return the canonical form of a configuration from plain data.

    Args:
        configuration: the data of the configuration's file.
        changes: fields that replace those of the configuration. Entries of `env` and `resources` replace single ones.
        profiles: the data of each file of profiles; an earlier file has precedence.
        profile: the name of the profile that applies; the default profile by default.
        backends: the names of the backends that may be used; None if they are unknown, and any name may be right.

    Raises:
        Mistaken: some data has mistakes. `document` is 0 for the configuration, 1 for the first file of profiles, and
            so on.
        ConfigurationError: no file has that profile.
    """
    from dstack.spec.parse import build, old_spellings, to_mapping

    written = _in_document(0, lambda: _with_known(build(configuration, TYPES), backends))
    notes = list(old_spellings(written, configuration))
    mapping = to_mapping(written)
    if written.type not in RUN_TYPES:
        return Reading(mapping, {}, notes)
    if changes:
        mapping = to_mapping(_with_known(build(_changed(mapping, changes), RUN_TYPES), backends))
    return canonical(mapping, _chosen(profiles, profile, backends), {}, notes)


def canonical(
    configuration: Mapping[str, Any],
    profile: Mapping[str, Any],
    changes: Mapping[str, Any],
    notes: Sequence[Mistake] = (),
) -> Reading:
    """Return the canonical form of a run's configuration, which overrides its profile. `changes` override both.

    Raises:
        Mistaken: the whole has mistakes.
    """
    from dstack.spec.parse import build, to_mapping

    below = {name: value for name, value in profile.items() if name not in OF_PROFILES}
    whole: RunConfiguration = build(over(over(below, configuration), changes), RUN_TYPES)
    ports = {port.container_port: port.local_port for port in whole.port_mappings()}
    return Reading(to_mapping(whole), ports, notes)


def _changed(mapping: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    parts = {
        name: {**mapping[name], **changes[name]}
        for name in PARTS
        if isinstance(changes.get(name), Mapping) and isinstance(mapping.get(name), Mapping)
    }
    return over(mapping, {**changes, **parts})


def _with_known(spec: S, names: Collection[str] | None, path: Path = ()) -> S:
    """Return a spec whose backends are known. Raises `Mistaken`."""
    words = (getattr(spec, "backends", None) or ()) if names is not None else ()
    found = ((at, why_unknown(word, names or ())) for at, word in enumerate(words))
    if mistakes := [Mistake((*path, "backends", at), why) for at, why in found if why is not None]:
        raise Mistaken(mistakes)
    return spec


def _chosen(profiles: Sequence[object], name: str | None, backends: Collection[str] | None) -> Mapping[str, Any]:
    """Return the profile of that name, or the default one; an empty mapping if no file has a default one."""
    from dstack.spec.parse import to_mapping, validated
    from dstack.spec.profile import Profiles

    known: list[str] = []
    for number, data in enumerate(profiles, 1):
        file = _in_document(number, lambda data=data: validated(Profiles, data))  # type: ignore[misc]
        if (found := file.chosen(name)) is not None:
            path = ("profiles", file.profiles.index(found))
            return to_mapping(_in_document(number, lambda: _with_known(found, backends, path)))  # noqa: B023
        known += [one.name for one in file.profiles]
    if name is None:
        return {}
    guess = nearest(name, known)
    raise ConfigurationError(
        f"There is no profile `{name}`" + (f"; did you mean `{guess}`?" if guess else f"; known are {listed(known)}")
        if known
        else f"There is no profile `{name}`: no file has profiles",
        hint="Add it to `.dstack/profiles.yml` or `~/.dstack/profiles.yml`",
    )


def _in_document(number: int, build: Callable[[], T]) -> T:
    try:
        return build()
    except Mistaken as error:
        raise Mistaken(error.mistakes, number) from None
