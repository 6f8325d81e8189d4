"""What engines say, as one reason and what to do about it."""

import pytest

from dstack.agent.containers.refusals import refusal_of_pull, refusal_of_start
from dstack.protocol.agent import Container

DENIED = "pull access denied for nosuch, repository does not exist or may require 'docker login': denied"
GHCR = 'Head "https://ghcr.io/v2/team/app/manifests/1": denied'
QUAY = "unauthorized: access to the requested resource is not authorized"
PODMAN = "initializing source docker://x:1: reading manifest 1 in docker.io/library/x: manifest unknown"


@pytest.mark.parametrize(
    ("image", "user", "said", "message"),
    [
        ("nosuch", None, DENIED, "There is no image `nosuch`, or it needs a login: "),
        ("nosuch", "me", DENIED, "There is no image `nosuch`, or the user `me` may not pull it: "),
        ("ghcr.io/team/app:1", "me", GHCR, "There is no image `ghcr.io/team/app:1`, or the user `me` may not pull it"),
        ("quay.io/a/b", "me", QUAY, "The registry of the image `quay.io/a/b` refuses the user `me`: "),
        ("x:1", None, PODMAN, "There is no image `x:1` in its registry: "),
        ("x:1", "me", "manifest for x:1 not found: manifest unknown", "There is no image `x:1` in its registry: "),
        ("x", None, "no matching manifest for linux/amd64", "The image `x` has no version for this kind of machine: "),
        ("x", None, "write /layer: no space left on device", "The disk of the machine is too full for the image `x`"),
        ("x", None, "dial tcp: lookup x: no such host", "The image `x` could not be pulled: dial tcp"),
        ("a/forbidden:401", "me", "a/forbidden:401: no route", "The image `a/forbidden:401` could not be pulled: "),
    ],
)
def test_an_image_that_cannot_be_had(image: str, user: str | None, said: str, message: str) -> None:
    refusal = refusal_of_pull(Container(image, username=user, password=user), said)
    assert refusal.message.startswith(message)
    assert refusal.hint


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("linux spec user: unable to find user x: no matching entries in passwd file", "There is no user `x` in the"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "The container engine of the machine"),
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", "The disk of the machine is full: mkdir"),
        ("container-init binary not found on the host: stat /usr/libexec/podman/catatonit", "Podman on the machine"),
        ("something new", "The container could not be started: something new"),
    ],
)
def test_a_container_that_cannot_be_started(said: str, message: str) -> None:
    assert refusal_of_start(Container("app", user="x"), said).message.startswith(message)
