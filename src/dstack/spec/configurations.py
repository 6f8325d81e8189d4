"""The types of all configurations, for annotations: a reader of one loads only its type (`spec.parse`)."""

from typing import TypeAlias

from dstack.spec.dev_environment import DevEnvironment
from dstack.spec.fleet import Fleet
from dstack.spec.gateway import Gateway
from dstack.spec.service import Service
from dstack.spec.task import Task
from dstack.spec.volume import Volume

RunConfiguration: TypeAlias = Task | Service | DevEnvironment
Configuration: TypeAlias = RunConfiguration | Fleet | Gateway | Volume
