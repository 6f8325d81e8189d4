"""The model behind a service, as the data plane needs it."""

from datetime import datetime

from dstack.protocol.proxy import Model
from dstack.spec.service import OpenAIChatModel, Service


def model_of(service: Service, created_at: datetime) -> Model | None:
    """Return the model that a service declares; None where it declares none.

    Args:
        created_at: the time of the run's submission, which lists of models have.

    Examples:
        >>> from datetime import UTC
        >>> service = Service(port=8000, image="vllm/vllm-openai", model="meta/llama")
        >>> model = model_of(service, datetime(2030, 1, 1, tzinfo=UTC))
        >>> model.name, model.format, model.prefix
        ('meta/llama', 'openai', '/v1')
    """
    model = service.model
    if model is None:
        return None
    created_at_s = int(created_at.timestamp())
    if isinstance(model, OpenAIChatModel):
        return Model(model.name, "openai", prefix=model.prefix, created_at=created_at_s)
    return Model(
        model.name, "tgi", chat_template=model.chat_template, eos_token=model.eos_token, created_at=created_at_s
    )
