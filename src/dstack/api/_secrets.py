"""Secrets of a project. Configurations refer to them as `${{ secrets.NAME }}`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.api._transport import Transport
    from dstack.protocol.views import SecretView


class SecretCollection:
    """The secrets of one project. The server stores their values encrypted.

    Examples:
        >>> from dstack.api import Client
        >>> secrets = Client.from_config().secrets
        >>> secrets.set("HF_TOKEN", "hf_123")
        >>> [one.name for one in secrets.list()], secrets.get("HF_TOKEN")
        (['HF_TOKEN'], 'hf_123')
        >>> secrets.delete("HF_TOKEN")
    """

    def __init__(self, transport: "Transport", project: str) -> None:
        self._transport = transport
        self._project = project

    def set(self, name: str, value: str) -> None:
        """Store a secret. Replaces the secret of that name, if there is one.

        Args:
            name: the secret's name: letters, digits, `-` and `_`, beginning with a letter or `_`.
            value: a text of at most 50,000 characters.

        Raises:
            InvalidRequestError: the name is invalid.
            ConfigurationError: the value is not text, or too long. The message does not show the value.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().secrets.set("TOKEN", "123")
        """
        from dstack.errors import ConfigurationError
        from dstack.kit.text import flaw_of
        from dstack.protocol import routes
        from dstack.protocol.requests import SECRET_CHARACTERS_MAX, SetSecret

        # A program without a type checker may give anything.
        is_kept = isinstance(value, str) and len(value) <= SECRET_CHARACTERS_MAX and flaw_of(value) is None
        if not is_kept:
            raise ConfigurationError(
                f"The value of the secret `{name}` is not UTF-8 text of at most {SECRET_CHARACTERS_MAX} characters",
                hint="Make a text of other bytes first, such as with `base64`",
            )
        self._transport.call(routes.SET_SECRET, SetSecret(value=value), project=self._project, secret=name)

    def get(self, name: str) -> str:
        """Return the value of a secret. Only admins and managers of the project may read it.

        Args:
            name: the secret's name.

        Raises:
            ResourceNotExistsError: the secret is missing.
            ForbiddenError: the caller is neither an admin nor a manager of the project.

        Examples:
            >>> from dstack.api import Client
            >>> secrets = Client.from_config().secrets
            >>> secrets.set("TOKEN", "123")
            >>> secrets.get("TOKEN")
            '123'
        """
        from dstack.protocol import routes
        from dstack.protocol.views import SecretView

        reply: SecretView = self._transport.call(routes.GET_SECRET, project=self._project, secret=name)
        return reply.value or ""

    def list(self) -> "list[SecretView]":
        """Return all secrets of the project, without values: `name`, and `updated_at`, the time of the last change.

        Examples:
            >>> from dstack.api import Client
            >>> secrets = Client.from_config().secrets
            >>> secrets.set("TOKEN", "123")
            >>> "TOKEN" in [one.name for one in secrets.list()]
            True
        """
        from dstack.protocol import routes
        from dstack.protocol.views import SecretList

        reply: SecretList = self._transport.call(routes.LIST_SECRETS, project=self._project)
        return reply.secrets

    def delete(self, name: str) -> None:
        """Delete a secret.

        Args:
            name: the secret's name.

        Raises:
            ResourceNotExistsError: the secret is missing.

        Examples:
            >>> from dstack.api import Client
            >>> secrets = Client.from_config().secrets
            >>> secrets.set("OLD", "123")
            >>> secrets.delete("OLD")
        """
        from dstack.protocol import routes

        self._transport.call(routes.DELETE_SECRET, project=self._project, secret=name)
