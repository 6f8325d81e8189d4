"""Secrets of a project, to which configurations refer as `${{ secrets.NAME }}`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dstack.api._transport import Transport
    from dstack.protocol.views import SecretView


class SecretCollection:
    """Operations with secrets. Values are kept encrypted, and given to jobs alone.

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
        """Keep a secret, in place of an earlier one of that name.

        Args:
            name: letters, digits, `-` and `_`, no digit first.
            value: any text.

        Raises:
            InvalidRequestError: the name is none.
            ConfigurationError: the value is no text, or too long. The value is not shown.

        Examples:
            >>> from dstack.api import Client
            >>> Client.from_config().secrets.set("TOKEN", "123")
        """
        from pydantic import ValidationError

        from dstack.errors import ConfigurationError
        from dstack.protocol import routes
        from dstack.protocol.requests import SECRET_CHARACTERS_MAX, SetSecret

        try:
            request = SetSecret(value=value)
        except ValidationError:
            raise ConfigurationError(
                f"The value of the secret `{name}` is no UTF-8 text of at most {SECRET_CHARACTERS_MAX} characters",
                hint="Make a text of other bytes first, such as with `base64`",
            ) from None
        self._transport.call(routes.SET_SECRET, request, project=self._project, secret=name)

    def get(self, name: str) -> str:
        """The value of a secret. For admins and managers of the project.

        Raises:
            ResourceNotExistsError: there is none of that name.
            ForbiddenError: the caller may not see it.

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
        """The names of all secrets, and when each was last set.

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
        """Forget a secret.

        Raises:
            ResourceNotExistsError: there is none of that name.

        Examples:
            >>> from dstack.api import Client
            >>> secrets = Client.from_config().secrets
            >>> secrets.set("OLD", "123")
            >>> secrets.delete("OLD")
        """
        from dstack.protocol import routes

        self._transport.call(routes.DELETE_SECRET, project=self._project, secret=name)
