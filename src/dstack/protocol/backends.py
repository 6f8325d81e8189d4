"""The objects that the API returns about backends and their machines."""

from typing import Any

from dstack.protocol.base import Time, View


class BackendView(View, frozen=True, kw_only=True):
    """A source of machines."""

    name: str
    silent: bool
    """Whether the backend failed to answer the server's last question. A backend not asked yet is not silent."""
    type: str = ""
    """The value of a `BackendType`, such as `aws`."""
    project: str | None = None
    """The only project that may use it; None for all projects."""
    config: dict[str, Any] = {}
    """Its configuration, with `***` for each credential. Empty if the caller may not change it."""
    fault: str | None = None
    """The reason why the server cannot call it; None if it can."""
    removing: bool = False
    """Whether it is being removed: it sells nothing more, and goes once no machine can be left."""
    machines: int = 0
    """The number of its machines that may exist."""
    machine_titles: list[str] = []
    """A text for people about each of the first 100 of them. Empty if the caller may not delete the backend."""
    updated_at: Time | None = None
    """The time of the last change of its configuration; None for a backend of the server's settings."""


class BackendList(View, frozen=True, kw_only=True):
    """Backends, by name."""

    backends: list[BackendView]


class CallsView(View, frozen=True, kw_only=True):
    """The calls of one kind to a backend, since the server that answers was started."""

    verb: str
    """`check`, `offers`, `launch`, `look_up` or `terminate`."""
    count: int
    """The number of calls that have ended."""
    failed: int
    running: int
    """The number of calls without an answer yet."""
    median_s: float
    """The median duration of the latest 100 calls, in seconds."""
    longest_s: float
    slow: bool
    """Whether the latest call took too long, or one without an answer does."""


class BackendCheckView(View, frozen=True, kw_only=True):
    """The result of a check of a backend."""

    name: str
    error: str | None
    """The reason why the backend cannot be used; None if it can."""
    field: str | None = None
    """The field of the configuration that is wrong, such as `creds.secret_key`; None if no field is the cause."""
    calls: list[CallsView] = []


class BackendRemovalView(View, frozen=True, kw_only=True):
    """The effect of the deletion of a backend."""

    name: str
    removed: bool
    """Whether its row is deleted. If not, that happens once no machine of it can be left."""
    machines: list[str] = []
    """Its machines that end first: a text for people about each."""
    given_up: list[str] = []
    """Its machines that were not confirmed as terminated, and may exist: a text for people about each."""


class MachineView(View, frozen=True, kw_only=True):
    """A machine at a backend, or one that is missing there."""

    backend: str
    machine_id: str
    instance_id: str
    """The instance to which the machine belongs, or for which it was created."""
    state: str
    """`claimed`: an instance owns the machine. `orphan`: no instance owns it. `duplicate`: its instance has another
    machine. `missing`: an instance owns it, and the backend does not list it."""
    detail: str
    price: float | None
    """The price in US dollars an hour; None if it is unknown."""


class AuditView(View, frozen=True, kw_only=True):
    """The machines of all backends, compared with the server's records."""

    machines: list[MachineView]
    silent: list[str]
    """The names of the backends that did not answer."""
