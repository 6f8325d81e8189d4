"""What an agent's process has from the environment of the one that starts it."""

from collections.abc import Mapping

from dstack.agent.environment import KEPT, KEPT_PREFIXES

_OF_THE_AGENT = frozenset(("DOCKER_HOST", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "PYENV_ROOT"))
_PREFIXES_OF_THE_AGENT = ("DSTACK_AGENT_", "PYTHON")
"""How to reach the engine and the remotes of repos, settings of its own, and where Pythons and its program are.

The server offers this machine as it finds it itself: what it finds by a variable, the agent must find as well.
"""


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that an agent inherits: a list of those it needs, so that no secret of a server is among them.

    Examples:
        >>> inherited({"PATH": "/bin", "DSTACK_DATABASE_URL": "postgresql://…", "DSTACK_AGENT_LOG_BYTES_MAX": "1"})
        {'PATH': '/bin', 'DSTACK_AGENT_LOG_BYTES_MAX': '1'}
    """
    names, prefixes = KEPT | _OF_THE_AGENT, (*KEPT_PREFIXES, *_PREFIXES_OF_THE_AGENT)
    return {name: value for name, value in environ.items() if name in names or name.startswith(prefixes)}
