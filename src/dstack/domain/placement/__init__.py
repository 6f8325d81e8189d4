"""Placement: one pure pass over the whole queue, shared by the engine and by plans.

All nodes of a gang are placed, or none. A gang that does not fit keeps its position and reserves the capacity it could
use, so it cannot starve. Capacity it could never use stays available to later gangs.
"""

from dstack.domain.placement.passes import NOTHING, Known, Placed, Placement, can_ever_place, place
from dstack.domain.placement.queues import Gang, JobQueue, Line, Queue
from dstack.domain.placement.waiting import BEHIND, Reason

__all__ = [
    "BEHIND",
    "NOTHING",
    "Gang",
    "JobQueue",
    "Known",
    "Line",
    "Placed",
    "Placement",
    "Queue",
    "Reason",
    "can_ever_place",
    "place",
]
