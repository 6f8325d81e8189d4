"""The real server in a world that is made up: virtual time, clouds, hosts and agents that fail when told to.

What this package exports is promised: `Cluster`, the faults, and the fixture `dstack_cluster` of its pytest plugin.
Nothing here is a double of our own code: engine, store and operations are the real ones. All loads at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; the real imports happen on first use
    from dstack.domain.offers import Offer as Offer
    from dstack.protocol.agent import Gpu as Gpu
    from dstack.protocol.agent import HostResources as HostResources
    from dstack.testing.cluster import Attempt as Attempt
    from dstack.testing.cluster import Cluster as Cluster
    from dstack.testing.cluster import ClusterRun as ClusterRun
    from dstack.testing.cluster import MachineView as MachineView
    from dstack.testing.faults import AgentRestarts as AgentRestarts
    from dstack.testing.faults import ClockJumps as ClockJumps
    from dstack.testing.faults import DatabaseBusy as DatabaseBusy
    from dstack.testing.faults import DataPlaneKills as DataPlaneKills
    from dstack.testing.faults import DeafServers as DeafServers
    from dstack.testing.faults import EventualConsistency as EventualConsistency
    from dstack.testing.faults import FailedStarts as FailedStarts
    from dstack.testing.faults import HostileAgents as HostileAgents
    from dstack.testing.faults import LateCreates as LateCreates
    from dstack.testing.faults import LinkCuts as LinkCuts
    from dstack.testing.faults import LostReplies as LostReplies
    from dstack.testing.faults import MachineFailures as MachineFailures
    from dstack.testing.faults import OtherAgents as OtherAgents
    from dstack.testing.faults import RefusedEnds as RefusedEnds
    from dstack.testing.faults import RepeatedMessages as RepeatedMessages
    from dstack.testing.faults import ReplicaDeaths as ReplicaDeaths
    from dstack.testing.faults import RunChanges as RunChanges
    from dstack.testing.faults import ServerCrashes as ServerCrashes
    from dstack.testing.faults import ServerPauses as ServerPauses
    from dstack.testing.faults import ServerUpdates as ServerUpdates
    from dstack.testing.faults import SlowBoots as SlowBoots
    from dstack.testing.faults import SlowDrains as SlowDrains
    from dstack.testing.faults import SlowStarts as SlowStarts
    from dstack.testing.faults import SoldOut as SoldOut
    from dstack.testing.faults import SpotReclaims as SpotReclaims
    from dstack.testing.faults import Unavailable as Unavailable
    from dstack.testing.faults import WrongClocks as WrongClocks

_FAULTS = (
    *("AgentRestarts", "ClockJumps", "DatabaseBusy", "DataPlaneKills", "DeafServers", "EventualConsistency"),
    *("FailedStarts", "HostileAgents", "LateCreates", "LinkCuts", "LostReplies", "MachineFailures", "OtherAgents"),
    *("RefusedEnds", "RepeatedMessages", "ReplicaDeaths", "RunChanges", "ServerCrashes", "ServerPauses"),
    *("ServerUpdates", "SlowBoots", "SlowDrains", "SlowStarts", "SoldOut", "SpotReclaims", "Unavailable"),
    "WrongClocks",
)
_HOME = {
    "Attempt": "dstack.testing.cluster",
    "Cluster": "dstack.testing.cluster",
    "ClusterRun": "dstack.testing.cluster",
    "Gpu": "dstack.protocol.agent",
    "HostResources": "dstack.protocol.agent",
    "MachineView": "dstack.testing.cluster",
    "Offer": "dstack.domain.offers",
    **dict.fromkeys(_FAULTS, "dstack.testing.faults"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # whatever the name stands for
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
