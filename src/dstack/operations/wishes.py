"""A parsed submit, with its requirements."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import asdict

from dstack.domain.default_images import image_of
from dstack.domain.objects import Revision, Run
from dstack.domain.offers import Demand, Offer, share_of
from dstack.domain.specs import SERVICE, configuration_in, demand_of, not_built_yet
from dstack.domain.updates import Change, changed_files, changes
from dstack.errors import ConfigurationError, InvalidRequestError
from dstack.protocol.requests import SubmitRun
from dstack.spec import resources
from dstack.spec.configurations import RunConfiguration
from dstack.spec.names import check_name
from dstack.spec.parse import configuration_of
from dstack.spec.secrets import check_variables, names_in, texts_with_secrets

CONFIGURATION_BYTES_MAX = 512 << 10
"""The limit as JSON; an order must fit into one line of the agent's connection (`protocol.frames`)."""

READ_AT_ONCE_BYTES = 32 << 10
"""The size above which a configuration is read beside the event loop: half a megabyte takes most of a second."""

PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")
"""The part of a URL with user and password."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wish:
    """A submit, understood: the configuration as an object, and what it asks of a machine."""

    request: SubmitRun
    configuration: RunConfiguration
    demand: Demand

    @property
    def secrets(self) -> set[str]:
        """The names of the secrets it refers to."""
        return {name for _, text in texts_with_secrets(self.request.configuration) for name in names_in(text)}

    @property
    def name(self) -> str | None:
        return self.request.run_name or self.configuration.name

    @property
    def resources(self) -> str:
        """The requirements for each machine, for people."""
        return resources.describe(self.configuration.resources)

    def image_on(self, offer: Offer) -> str | None:
        """Return the image of the jobs on a machine of an offer that fits; None if they run as processes."""
        return image_of(self.configuration) if share_of(self.demand, offer).container else None

    def spec(self, name: str | None) -> Mapping[str, Any]:
        """Return the spec of a run of that name, or of one whose name is not drawn yet."""
        repo = self.request.repo
        return {**asdict(self.request), "repo": repo and asdict(repo), "run_name": name}


async def understand(request: SubmitRun) -> Wish:
    """Return the parsed request.

    Raises:
        InvalidRequestError: the configuration or the name cannot work.
    """
    return await beside_if_large(check_size(request.configuration), lambda: _understand(request))


async def beside_if_large(size_bytes: int, read: Callable[[], T]) -> T:
    """Return the result of reading a configuration, which happens beside the event loop if it takes long.

    Args:
        size_bytes: the size of the configuration as JSON.
        read: reads the configuration.
    """
    return await asyncio.to_thread(read) if size_bytes > READ_AT_ONCE_BYTES else read()


def _understand(request: SubmitRun) -> Wish:
    try:
        configuration = configuration_of(request.configuration)
        if missing := list(not_built_yet(configuration)):
            raise ConfigurationError(f"This version of dstack cannot yet: {'; '.join(missing)}", hint="Leave it out")
        _check_references(request.configuration)
        _check_repos(configuration)
        wish = Wish(request, configuration, demand_of(configuration))
        if wish.name is not None:
            check_name(wish.name)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message, hint=error.hint) from error
    return wish


def check_size(configuration: object) -> int:
    """Return the size of a configuration as JSON, in bytes.

    Raises:
        InvalidRequestError: it is too large.
    """
    size = len(json.dumps(configuration))
    if size > CONFIGURATION_BYTES_MAX:
        raise InvalidRequestError(
            f"The configuration has {size} bytes, and at most {CONFIGURATION_BYTES_MAX} are taken",
            hint="Move long texts into files of the run's folder",
        )
    return size


def _check_references(configuration: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` where `${{ env.X }}` refers to nothing."""
    try:
        check_variables(configuration)
    except ValueError as error:
        raise ConfigurationError(f"{error}", hint="Add it to `env`: `- NAME` passes yours on") from None


def _check_repos(configuration: RunConfiguration) -> None:
    """Raise `ConfigurationError` for a URL with a password: everyone in the project can read a run's spec."""
    if any(PASSWORD.search(repo.url or "") for repo in configuration.repos):
        raise ConfigurationError("The URL in `repos` has a password", hint="Initialize the repo with its credentials")


def changes_of(run: Run, wish: Wish) -> list[Change]:
    """Return the changes of the request to the run."""
    return changes_to(run.current, wish)


def changes_to(revision: Revision, wish: Wish) -> list[Change]:
    """Return the changes of the request to one revision of a run."""
    before = configuration_in(revision)
    files = changed_files(revision.spec, wish.spec(wish.name)) if before.type == SERVICE else []
    return [*changes(before, wish.configuration), *files]
