"""What an agent is told of a job."""

from collections.abc import Mapping, Sequence

from dstack.domain.objects import Instance, Job, Run
from dstack.domain.offers import Share
from dstack.domain.specs import configuration_in
from dstack.protocol.agent import Gpu, JobOrder


def order_of(run: Run, job: Job, gang: Sequence[Job], instances: Mapping[str, Instance]) -> JobOrder:
    """All an agent must know to run the job.

    Args:
        gang: the job and the other nodes that start with it, in order.
        instances: the instances of all of them, by id.
    """
    configuration = configuration_in(run.spec)
    node = configuration.jobs()[job.replica * job.nodes + job.node]
    repo = run.spec.get("repo") or {}
    key = run.spec.get("ssh_public_key")
    return JobOrder(
        job_id=job.id,
        run_name=run.name,
        script=node.script,
        shell=configuration.shell,
        env={**_strings(configuration.env), **_environment(run, job, gang, instances)},
        working_dir=configuration.working_dir or ".",
        files_root=repo.get("root"),
        max_duration_s=job.max_duration_s,
        stop_grace_s=job.stop_grace_s,
        authorized_keys=(key,) if key else (),
    )


def _strings(env: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in env.items() if value is not None}


def _environment(run: Run, job: Job, gang: Sequence[Job], instances: Mapping[str, Instance]) -> dict[str, str]:
    """What every job is told about itself and its peers; single-node jobs too."""
    ips = [instances[node.instance_id or ""].hostname or "" for node in gang]
    here = instances[job.instance_id or ""]
    cards = here.offer.resources.gpus
    repo = run.spec.get("repo") or {}
    return {
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_RUN_ID": run.id,
        "DSTACK_JOB_ID": job.id,
        "DSTACK_REPO_ID": repo.get("id", ""),
        "DSTACK_NODES_IPS": "\n".join(ips),
        "DSTACK_MASTER_NODE_IP": ips[0],
        "DSTACK_NODE_RANK": str(job.node),
        "DSTACK_NODES_NUM": str(job.nodes),
        "DSTACK_GPUS_PER_NODE": str(len(job.share.gpus)),
        "DSTACK_GPUS_NUM": str(sum(len(node.share.gpus) for node in gang)),
        **_visible(cards, job.share),
    }


def _visible(cards: Sequence[Gpu], share: Share) -> dict[str, str]:
    """On a machine with cards, a job sees its own and no others."""
    indices = ",".join(map(str, share.gpus))
    names = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES"}
    return {names[card.vendor]: indices for card in cards if card.vendor in names}
