"""The size of a service: the number of its replicas, and the rules by which that follows the traffic."""

from dstack.domain.autoscaling import Rules
from dstack.domain.objects import Run
from dstack.domain.specs import configuration_in
from dstack.domain.traffic import WINDOW
from dstack.spec.configurations import RunConfiguration
from dstack.spec.service import Service


def replicas_of(run: Run) -> int:
    """Return the number of replicas that a service needs now; 1 for other runs."""
    configuration = configuration_in(run.current)
    if not isinstance(configuration, Service):
        return 1
    least, most = configuration.replicas.min or 0, configuration.replicas.max or 0
    return least if run.scale is None else min(max(run.scale.asked, least), most)


def most_replicas_of(configuration: RunConfiguration) -> int:
    """Return the number of replicas that a service may ever need; 1 for other runs."""
    return (configuration.replicas.max or 0) if isinstance(configuration, Service) else 1


def rules_of(configuration: RunConfiguration) -> Rules | None:
    """Return the rules by which a service scales; None where its number of replicas is fixed."""
    if not isinstance(configuration, Service) or configuration.replicas.min == configuration.replicas.max:
        return None
    scaling = configuration.scaling
    assert scaling is not None, "a range needs them"
    return Rules(
        metric=scaling.metric,
        target=scaling.target,
        minimum=configuration.replicas.min or 0,
        maximum=configuration.replicas.max or 0,
        up_delay_s=scaling.scale_up_delay,
        down_delay_s=scaling.scale_down_delay,
        window_s=WINDOW.total_seconds() if scaling.window is None else scaling.window,
    )
