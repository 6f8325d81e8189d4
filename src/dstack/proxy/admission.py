"""Which request may go where: its service, the caller's right, and the limits."""

import re
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from dstack.protocol.proxy import MODELS_PREFIX, SERVICES_PREFIX, Replica, Service
from dstack.proxy.answers import Refusal
from dstack.proxy.heads import RequestFields
from dstack.proxy.limits import Bucket
from dstack.proxy.routes import Route, Routes, may_use

MODELS = MODELS_PREFIX.rstrip("/").encode()
_SHOWN_MAX = 20
_ODD_PATH = re.compile(rb"%|//|/\.")


def admit_to_models(routes: Routes, rest: bytes, fields: RequestFields, is_server_away: bool) -> tuple[str, bool]:
    """Return the project whose models a request names, and whether the caller is a member. Raises `Refusal`.

    Args:
        rest: the path below `MODELS`.
    """
    project = rest.partition(b"?")[0][1:].partition(b"/")[0].decode("latin-1")
    if not project:
        raise Refusal(404, "not_found", f"Expected {MODELS_PREFIX}<project>/…, found {_shown(MODELS + rest)}")
    projects = None if fields.authorization is None else routes.projects_of(fields.authorization)
    if may_use(projects, project):
        return project, True
    if not any(one.service.model and not one.needs_token for one in routes.of_project(project)):
        authorize(routes, project, fields, is_server_away)
    return project, False  # some client programs send a token of any text to models that need none


def authorize(routes: Routes, project: str, fields: RequestFields, is_server_away: bool) -> None:
    """Raise `Refusal` if the caller may not use the services of a project."""
    if fields.authorization is None:
        raise Refusal(
            401,
            "unauthorized",
            "This service needs a token",
            hint="Send the header `Authorization: Bearer <token of a project member>`. Browsers send none: a web page "
            "needs `auth: false`",
        )
    projects = routes.projects_of(fields.authorization)
    if projects is None and not routes:  # tokens are followed where there are services
        raise Refusal(404, "not_found", "This server has no services", hint="`dstack ps` shows what runs")
    if projects is None and is_server_away:
        raise Refusal(
            503, "server_away", "The token cannot be checked: the dstack server is not running", retry_after_s=5
        )
    if projects is None:
        raise Refusal(401, "unauthorized", "The dstack server does not know this token")
    if not may_use(projects, project):
        raise Refusal(403, "forbidden", f"This token is for no member of the project {project[:80]!r}")


def refuse_unknown(routes: Routes, prefix: bytes, rest: bytes, fields: RequestFields, is_server_away: bool) -> NoReturn:
    """Raise the `Refusal` of a request whose service does not exist.

    A caller learns the names of the services of its own projects only.
    """
    _, _, kind, *names = prefix.decode("latin-1").split("/")
    if kind != "services" or len(names) != 2:
        raise Refusal(
            404, "not_found", f"Expected {SERVICES_PREFIX}<project>/<service>/, found {_shown(prefix + rest)}"
        )
    project, name = names
    authorize(routes, project, fields, is_server_away)
    there = [one.service.name for one in routes.of_project(project)]
    shown = ", ".join(there[:_SHOWN_MAX]) + (", …" if len(there) > _SHOWN_MAX else "")
    hint = f"Services of this project: {shown}" if there else "This project has no services"
    raise Refusal(404, "not_found", f"The project {project} has no service {name[:80]!r}", hint=hint)


def check_limits(route: Route, rest: bytes, address: bytes, fields: RequestFields, now_s: float) -> None:
    """Count a request at the limit with the longest prefix of its path. Raises `Refusal`."""
    path = plain_path(rest)
    bucket = next((one for one in route.buckets if path.startswith(one.prefix)), None)
    if bucket is not None:
        _count(bucket, address, fields, now_s)


def _count(bucket: Bucket, address: bytes, fields: RequestFields, now_s: float) -> None:
    caller = address
    if bucket.header is not None:
        caller = next((value for name, value in fields.headers if name.lower() == bucket.header), b"")
    wait_s = bucket.wait_s(caller, now_s)
    if wait_s > 0:
        message = f"More than {bucket.limit.rps:g} requests a second below {bucket.limit.prefix}"
        raise Refusal(429, "rate_limited", message, retry_after_s=max(1, round(wait_s + 0.5)))


def target_at_name(method: bytes, prefix: bytes, query: bytes, fields: RequestFields, target: bytes) -> bytes:
    """Return the target of a request at the name of a service, without a slash behind it.

    Raises:
        Refusal: it is one of a page. Browsers resolve relative links at the slash, and would leave the service.
    """
    if method in (b"GET", b"HEAD") and not fields.is_upgrade:
        raise Refusal(308, "moved", "The address of a service ends with a slash", location=prefix + b"/" + query)
    return target if target[:1] == b"/" else b"/" + target


def without_replica(service: Service) -> Refusal:
    """Return the reason why no replica can take a request."""
    waits_for = f": {service.waits_for}" if service.waits_for else ""
    message = f"No replica of the service {service.name} is ready{waits_for}"
    return Refusal(503, "no_replica", message, retry_after_s=2)


def replica_failed(service_name: str, replica: Replica, reason: str) -> Refusal:
    """Return the reason why a request has no answer although a replica was ready."""
    name = f" {service_name}" if service_name else ""
    message = f"Replica {replica.number} of the service{name} failed: {reason}"
    hint = f"`dstack logs{name} --replica {replica.number}` shows its output"
    return Refusal(502, "replica_failed", message, hint=hint)


def plain_path(rest: bytes) -> bytes:
    """Return a path as most programs understand it, so that no other spelling of it evades a limit.

    Examples:
        >>> plain_path(b"/a/../b//%63/./d?x=//"), plain_path(b"/..%2f..%2fx"), plain_path(b"")
        (b'/b/c/d', b'/x', b'/')
    """
    path = rest.partition(b"?")[0] or b"/"
    if not _ODD_PATH.search(path):
        return path
    parts: list[bytes] = []
    names = unquote_to_bytes(path).split(b"/")
    for name in names:
        if name == b"..":
            del parts[-1:]
        elif name not in (b"", b"."):
            parts.append(name)
    end = b"/" if parts and names[-1] in (b"", b".", b"..") else b""
    return b"/" + b"/".join(parts) + end


def forwarded(address: bytes, fields: RequestFields, prefix: bytes) -> bytes:
    """Return the header lines about the client, and the end of the head."""
    return (
        b"x-forwarded-for: %b\r\nx-forwarded-host: %b\r\nx-forwarded-proto: http\r\nx-forwarded-prefix: %b\r\n\r\n"
        % (address, fields.host, prefix)
    )


def _shown(target: bytes) -> str:
    return repr(target[:80].decode("latin-1"))
