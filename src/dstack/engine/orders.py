"""An agent's order, with what is kept as ciphertext in place."""

import json
from collections.abc import Mapping
from typing import Any

from dstack.domain.objects import Run
from dstack.domain.orders import Confidential, order_of
from dstack.errors import BackendError
from dstack.kit.vault import NoKey, Vault, WrongKey
from dstack.protocol.agent import JobOrder
from dstack.spec.secrets import names_in, texts_with_secrets
from dstack.store import objects, revisions, secrets
from dstack.store.tx import Tx

WRONG_KEY_HINT = "Start the server with the `DSTACK_ENCRYPTION_KEY` it had, or set the secret again"


def complete_order(tx: Tx, job_id: str, vault: Vault) -> JobOrder:
    """All an agent must know to run the job.

    Raises:
        BackendError: the job, or a secret that it needs, is not on record or cannot be read.
    """
    job = objects.find_job(tx, job_id)
    run = objects.find_run(tx, job.run_id) if job else None
    if job is None or run is None:
        raise BackendError(f"The job `{job_id}` is not on record")
    revision = revisions.find(tx, run, job.revision)
    gang = objects.gang_of(tx, job)
    instances = objects.instances_by_id(tx, [node.instance_id or "" for node in gang])
    try:
        return order_of(run, revision, job, gang, instances, _confidential(tx, run, revision.spec, vault))
    except ValueError as error:
        raise BackendError(f"The job cannot be started: {error}", hint="Correct it with `dstack secret set`") from None


def _confidential(tx: Tx, run: Run, spec: Mapping[str, Any], vault: Vault) -> Confidential:
    names = {name for _, text in texts_with_secrets(spec["configuration"]) for name in names_in(text)}
    sealed = secrets.sealed_secrets(tx, run.project_id, names) if names else {}
    asked = spec.get("repo") or {}
    is_remote = asked.get("kind") == "remote"
    repo = secrets.find_repo(tx, run.project_id, run.user_id, asked["id"]) if is_remote else None
    if is_remote and (repo is None or repo.url is None):
        raise BackendError("The run's repo is no longer initialized", hint="Run `dstack init`, and submit again")
    try:
        opened = {name: vault.open(text) for name, text in sealed.items()}
        credentials = json.loads(vault.open(repo.sealed)) if repo is not None and repo.sealed else {}
    except (WrongKey, NoKey):
        raise BackendError("A secret was encrypted with another key", hint=WRONG_KEY_HINT) from None
    return Confidential(opened, repo.url if repo else None, credentials.get("private_key"), credentials.get("token"))
