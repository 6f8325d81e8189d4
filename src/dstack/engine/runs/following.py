"""SUBMITTED, PROVISIONING, RUNNING: a run follows its jobs."""

from dstack.domain.objects import Next, RunView
from dstack.domain.specs import SERVICE
from dstack.engine.runs.deriving import derive
from dstack.engine.runs.services import serve


def follow(view: RunView) -> Next:
    """Follow the jobs: end or retry with the first that did not end well; replace each replica of a service alone."""
    return serve(view) if view.run.type == SERVICE else derive(view)
