"""Requests for Text Generation Inference (TGI), made of those that clients send."""

import os
from typing import TYPE_CHECKING

from dstack.kit.clock import Clock
from dstack.proxy.balance import ReplicaState
from dstack.proxy.choices import Choice
from dstack.proxy.models import tgi
from dstack.proxy.models.asking import ask
from dstack.proxy.models.openai import Place
from dstack.proxy.models.routing import below
from dstack.proxy.models.templates import Templates
from dstack.proxy.models.tgi_answers import Identity, rewriting_of
from dstack.proxy.models.tokenizers import Tokenizers
from dstack.proxy.routes import Route

if TYPE_CHECKING:
    from dstack.proxy.plane import DataPlane


class Conversion:
    """Converts requests, with the chat templates of their models."""

    def __init__(self, plane: "DataPlane", clock: Clock) -> None:
        """Args: `clock`: the time that answers have."""
        self._plane = plane
        self._clock = clock
        self._templates = Templates()
        self.tokenizers = Tokenizers(plane.now_s)

    async def choice(self, place: Place, route: Route, replica: ReplicaState, body: bytes | bytearray) -> Choice:
        """Return a request in the form that a replica takes. Raises `Refusal`."""
        model = route.service.model
        assert model is not None
        asked: tgi.Parameters
        if place.endpoint == "completions":
            asked, prompt = tgi.read_completion(body)
            eos_token = model.eos_token
        else:
            asked = chat = tgi.read_chat(body)
            target = replica.replica.target
            template, eos_token = await self.tokenizers.of(
                route.service.id, model, lambda: ask(self._plane, target, below(route, b"/info"))
            )
            prompt = await self._templates.prompt(route.service.id, model.name, template, chat.messages, eos_token)
        wanted = tgi.wanted_of(asked, eos_token)
        return Choice(
            route,
            below(route, tgi.target_of(wanted)),
            body=tgi.body_of(asked, wanted, prompt),
            replica=replica,
            rewriting=rewriting_of(wanted, self._identity(wanted)),
        )

    def _identity(self, wanted: tgi.Wanted) -> Identity:
        kind = "chatcmpl" if wanted.is_chat else "cmpl"
        return Identity(f"{kind}-{os.urandom(12).hex()}", int(self._clock.now().timestamp()))

    async def close(self) -> None:
        """End the processes that render templates."""
        await self._templates.close()
