"""The order for a job: all that its agent needs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import isabs
from typing import Any

from dstack.domain.default_images import image_env, image_of, preparation_of
from dstack.domain.objects import Instance, Job, Revision, Run
from dstack.domain.offers import Offer
from dstack.domain.specs import configuration_in
from dstack.protocol.agent import Container, GitSource, Header, JobOrder, Mount, Probe, Serving
from dstack.protocol.runtimes import Runtime
from dstack.spec.configurations import RunConfiguration
from dstack.spec.env import check_variable, check_whole
from dstack.spec.secrets import filled, filled_env
from dstack.spec.service import Service

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Confidential:
    """The part that is stored as ciphertext, and sent to the agent alone."""

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those that the configuration refers to, by name."""
    url: str | None = None
    """Of the run's remote repo."""
    private_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def order_of(
    run: Run,
    revision: Revision,
    job: Job,
    gang: Sequence[Job],
    instances: Mapping[str, Instance],
    confidential: Confidential,
) -> JobOrder:
    """All an agent must know to run the job.

    Args:
        revision: the one that the job was made from.
        gang: the job and the other nodes that start with it, in order.
        instances: the instances of all of them, by id.

    Raises:
        ValueError: a secret that the configuration refers to does not exist, or makes a variable too large.
    """
    spec, configuration = revision.spec, configuration_in(revision)
    script = configuration.script()
    repo = spec.get("repo") or {}
    key = spec.get("ssh_public_key")
    host = instances[job.instance_id or ""].offer
    is_process = not job.share.container
    env = filled_env(_present(configuration.env), confidential.secrets)
    return JobOrder(
        job_id=job.id,
        run_name=run.name,
        script=script if is_process else preparation_of(configuration) + script,
        shell=configuration.shell,
        env=_whole({**image_env(configuration), **env}, _environment(run, repo, job, gang, instances)),
        working_dir=configuration.working_dir or ".",
        files_root=repo.get("root"),
        repo_path=next((one.path for one in configuration.repos), "."),
        git=_git_of(repo, confidential),
        max_duration_s=job.max_duration_s,
        stop_grace_s=job.stop_grace_s,
        authorized_keys=(key,) if key else (),
        container=None if is_process else _container_of(configuration, job, host, confidential.secrets, env),
        gpus=job.share.gpus,
        path=spec.get("path") if is_process and host.runtime is Runtime.PROCESS else None,
        python=configuration.python if is_process else None,
        service=_serving_of(configuration) if isinstance(configuration, Service) else None,
    )


def _serving_of(service: Service) -> Serving:
    """Return the port of each replica, and the probes."""
    probes = (
        Probe(
            path=probe.url,
            method=probe.method,
            headers=tuple(Header(one.name, one.value) for one in probe.headers),
            body=probe.body,
            timeout_s=float(probe.timeout),
            interval_s=float(probe.interval),
            ready_after=probe.ready_after,
            until_ready=probe.until_ready,
        )
        for probe in service.probes
    )
    return Serving(service.port.container_port, tuple(probes))


def _container_of(
    configuration: RunConfiguration, job: Job, host: Offer, secrets: Mapping[str, str], env: Mapping[str, str]
) -> Container:
    """Return the container to run in."""
    auth, resources = configuration.registry_auth, configuration.resources
    cpus, memory_mib = job.demand.cpus, job.demand.memory_mib
    shm_size = resources.shm_size
    entrypoint = configuration.entrypoint
    return Container(
        image=image_of(configuration),
        username=None if auth is None else filled(auth.username, secrets, env),
        password=None if auth is None else filled(auth.password, secrets, env),
        entrypoint=None if entrypoint is None else tuple(shlex.split(entrypoint)),
        user=configuration.user,
        privileged=configuration.privileged,
        shm_bytes=None if shm_size is None else int(shm_size.mib * MIB),
        mounts=tuple(
            Mount(volume.source, volume.path, volume.read_only, volume.optional)
            for volume in configuration.volumes
            if volume.is_on_instance
        ),
        files=_absolute(configuration),
        host_network=not host.is_shared,
        cpus=cpus.max if cpus.written else None,
        memory_bytes=int(memory_mib.max * MIB) if memory_mib.written and memory_mib.max else None,
    )


def _absolute(configuration: RunConfiguration) -> tuple[str, ...]:
    """Return the absolute paths at which files and repos of the run shall lie, each once."""
    paths = [*(repo.path for repo in configuration.repos), *(file.path for file in configuration.files)]
    return tuple(dict.fromkeys(path for path in paths if isabs(path)))


def _present(env: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in env.items() if value is not None}


def _whole(written: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a job, with the values of secrets and the number of nodes."""
    env = {**written, **own}
    for name, value in env.items():
        check_variable(name, value)
    check_whole(env)
    return env


def _git_of(repo: Mapping[str, Any], confidential: Confidential) -> GitSource | None:
    if confidential.url is None:
        return None
    return GitSource(
        confidential.url,
        repo.get("branch"),
        repo.get("hash"),
        confidential.private_key,
        confidential.token,
        parts_sent=repo.get("parts_sent", False),
    )


def _environment(
    run: Run, repo: Mapping[str, Any], job: Job, gang: Sequence[Job], instances: Mapping[str, Instance]
) -> dict[str, str]:
    """Return the variables about a job and its peers, which single-node jobs get too."""
    addresses = [instances[node.instance_id or ""].address for node in gang]
    ips = ["" if address is None else address.internal_ip or address.host for address in addresses]
    return {
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_RUN_ID": run.id,
        "DSTACK_JOB_ID": job.id,
        "DSTACK_REPO_ID": repo.get("id", ""),
        "DSTACK_NODES_IPS": "\n".join(ips),
        "DSTACK_MASTER_NODE_IP": ips[0],
        "DSTACK_REPLICA_NUM": str(job.replica),
        "DSTACK_NODE_RANK": str(job.node),
        "DSTACK_NODES_NUM": str(job.nodes),
        "DSTACK_GPUS_PER_NODE": str(len(job.share.gpus)),
        "DSTACK_GPUS_NUM": str(sum(len(node.share.gpus) for node in gang)),
    }
