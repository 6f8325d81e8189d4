"""Chat templates: rendered as their authors expect, and stopped where they attack."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dstack.proxy.answers import Refusal
from dstack.proxy.models import templates
from dstack.proxy.models.templates import Templates
from tests.unit.proxy.models.conftest import TEMPLATE, Plane, service
from tests.unit.proxy.models.test_models import HELLO
from tests.unit.proxy.world import settle

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
MESSAGES = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hällo"}]


@pytest.fixture
async def helpers() -> AsyncIterator[Templates]:
    helpers = Templates(timeout_s=1)
    yield helpers
    await helpers.close()


async def rendered(helpers: Templates, template: str, service: str = "s", messages: Any = MESSAGES) -> str:
    return await helpers.prompt(service, "tiny", template, messages, "</s>")


async def test_templates_of_all_kinds_are_rendered(helpers: Templates) -> None:
    cases = {
        TEMPLATE: "<system>be short</s><user>hällo</s><assistant>",
        "{%- if messages[0]['role'] == 'system' %}\n  {{- messages[0]['content'] | trim }}\n{%- endif %}": "be short",
        "{% for m in messages %}{% if loop.last %}{{ m | tojson }}{% else %}{% continue %}{% endif %}{% endfor %}": (
            '{"role": "user", "content": "hällo"}'
        ),
        "{{ bos_token }}{{ strftime_now('%Y') | int > 2000 }}{% if tools is defined %}x{% endif %}": "True",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}": "2",
        "{{ '<' ~ add_generation_prompt ~ '>' }}": "<True>",
    }
    assert {template: await rendered(helpers, template) for template in cases} == cases


async def test_template_that_refuses_messages_is_a_mistake_of_the_caller(helpers: Templates) -> None:
    with pytest.raises(Refusal) as caught:
        await rendered(helpers, "{{ raise_exception('roles must alternate') }}")
    assert (caught.value.status, caught.value.message.rpartition(": ")[2]) == (400, "roles must alternate")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "unsafe"),
        ("{{ lipsum.__globals__['os'].system('id') }}", "unsafe"),
        ("{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}", "unsafe"),
        ("{{ messages.append(messages) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for %}", "line 1"),
        ("{{ nothing.there }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ '\\ud800' }}", "not valid text"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "calls itself"),
        ("{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "more than 16 million characters"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{{ 'x' * 10 ** 10 }}", "memory"),
        (
            "{% set n = namespace(s='x' * 1000) %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
            "memory",
        ),
        (LOOP, "takes longer than 1 s"),
        ("{{ (9 ** 99999) ** 99999 }}", "takes longer than 1 s"),
    ],
)
async def test_template_that_attacks_is_stopped_and_the_next_one_works(
    helpers: Templates, template: str, reason: str
) -> None:
    with pytest.raises(Refusal) as caught:
        await rendered(helpers, template)
    assert (caught.value.status, caught.value.code) == (500, "template_failed")
    assert reason in caught.value.message
    assert caught.value.hint == "Correct `chat_template` of the service's `model`"
    assert await rendered(helpers, TEMPLATE) != ""


async def test_slow_template_delays_no_other_service(helpers: Templates) -> None:
    slow = asyncio.create_task(rendered(helpers, LOOP, "slow"))
    waiting = asyncio.create_task(rendered(helpers, "{{ 1 }}", "slow"))
    assert await rendered(helpers, "{{ 2 }}", "fast") == "2"
    with pytest.raises(Refusal):
        await slow
    assert await waiting == "1"


async def test_chats_that_wait_are_bounded(helpers: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "WAITING_MAX", 3)
    answers = await asyncio.gather(*(rendered(helpers, "{{ 1 }}") for _ in range(5)), return_exceptions=True)
    refused = [answer.status for answer in answers if isinstance(answer, Refusal)]
    assert (answers.count("1"), refused) == (3, [503, 503])


async def test_helpers_are_bounded(helpers: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "HELPERS_MAX", 2)
    for number in range(5):
        assert await rendered(helpers, "{{ 1 }}", str(number)) == "1"
    assert list(helpers._renderers) == ["3", "4"]


async def test_chat_whose_client_leaves_spoils_none_behind_it(helpers: Templates) -> None:
    await rendered(helpers, "{{ 1 }}")
    leaving = asyncio.create_task(rendered(helpers, "{{ 'of the one that left' }}"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await rendered(helpers, "{{ 2 }}") == "2"


@pytest.mark.parametrize("is_rendering", [False, True])
async def test_helper_that_ends_is_replaced_without_a_failed_chat(helpers: Templates, is_rendering: bool) -> None:
    await rendered(helpers, TEMPLATE)
    pid = helper_of(helpers)
    if is_rendering:
        os.kill(pid, signal.SIGSTOP)
        chat = asyncio.create_task(rendered(helpers, TEMPLATE))
        await settle()
        os.kill(pid, signal.SIGKILL)  # as the system does at `CPU_S_MAX`
    else:
        os.kill(pid, signal.SIGKILL)
        chat = asyncio.create_task(rendered(helpers, TEMPLATE))
    assert await chat == "<system>be short</s><user>hällo</s><assistant>"
    assert helper_of(helpers) != pid


def helper_of(helpers: Templates) -> int:
    """Return the process of the only helper."""
    ((_, renderer),) = helpers._renderers.items()
    assert renderer._process is not None
    return renderer._process.pid


async def test_client_learns_from_an_attacking_template_what_to_correct(plane: Plane) -> None:
    server = await plane.server()
    plane.follow(service("tgi", server, format="tgi", chat_template="{{ ''.__class__.__mro__ }}", eos_token=""))
    answer = await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "template_failed")
    assert "unsafe" in error["message"]
    assert server.requests == []
