"""Large configurations are read beside the event loop, so that other requests are answered meanwhile."""

import threading
from typing import Any

import pytest

from dstack.operations import configurations, planning, submitting, updating, wishes
from dstack.operations.context import Context
from dstack.protocol.requests import ReadConfiguration, SubmitRun
from dstack.spec import parse, reading
from dstack.store import users
from dstack.store.users import User

ADA = User("0-user", "ada", is_admin=True)


def task(characters: int) -> dict[str, Any]:
    return {"type": "task", "name": "hello", "commands": ["x" * characters]}


@pytest.mark.parametrize("characters", [10, 100_000])
async def test_large_configuration_is_read_beside_the_event_loop_by_every_call(
    context: Context, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    threads: list[bool] = []

    def of_run(configuration: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse.configuration_of(configuration)

    def of_file(*data: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return read(*data)

    read = reading.read
    monkeypatch.setattr(wishes, "configuration_of", of_run)
    monkeypatch.setattr(reading, "read", of_file)
    await context.db.write(lambda tx: users.set_admin(tx, "0-user", is_admin=True))
    request = SubmitRun(configuration=task(characters))
    await configurations.read(context, ADA, ReadConfiguration(configuration=task(characters)))
    await planning.plan(context, ADA, "main", request)
    run = await submitting.submit(context, ADA, "main", request, None)
    await updating.update(context, ADA, "main", run.id, request)
    assert threads == [characters < wishes.READ_AT_ONCE_BYTES] * 4
