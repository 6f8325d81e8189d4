"""The chat template of a model whose configuration has none: from its replica and the hub."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dstack.protocol.proxy import Model, Tcp
from dstack.proxy.answers import Refusal
from dstack.proxy.models import asking, tokenizers
from dstack.proxy.models.asking import ask
from dstack.proxy.models.tokenizers import FAILURE_HOLDS_S, HUB, Tokenizer, Tokenizers, fetch_file
from tests.unit.proxy.models.conftest import TEMPLATE, Plane, service
from tests.unit.proxy.models.test_models import HELLO

PLAIN = Model("named", "tgi")


class Hub:
    """Files, and the questions for them."""

    def __init__(self, files: dict[str, Any]) -> None:
        self.files = files
        self.asked: list[str] = []
        self.now_s = 0.0
        self.tokenizers = Tokenizers(lambda: self.now_s, self.fetch)

    def fetch(self, url: str) -> bytes | None:
        self.asked.append(url)
        found = self.files.get(url.removeprefix(f"{HUB}/"))
        if isinstance(found, Exception):
            raise found
        return found if found is None or isinstance(found, bytes) else json.dumps(found).encode()

    async def of(self, model: Model = PLAIN, info: Any = None) -> Tokenizer:
        async def ask() -> bytes:
            if info is None:
                raise OSError("it answered with the status 404")
            return info if isinstance(info, bytes) else json.dumps(info).encode()

        return await self.tokenizers.of("id", model, ask)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"chat_template": "T", "eos_token": "</s>"}, ("T", "</s>")),
        ({"chat_template": "T", "eos_token": {"content": "<|end|>", "lstrip": False}}, ("T", "<|end|>")),
        ({"chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}]}, ("T", None)),
        ({"chat_template": "T", "eos_token": None}, ("T", None)),
        ({"eos_token": "</s>"}, ("from its own file", "</s>")),
    ],
)
async def test_template_and_end_token_are_read_from_the_hub(configuration: Any, expected: tuple[str, str]) -> None:
    place = "org/tiny/resolve/abc"
    hub = Hub({f"{place}/tokenizer_config.json": configuration, f"{place}/chat_template.jinja": b"from its own file"})
    assert await hub.of(info={"model_id": "org/tiny", "model_sha": "abc", "sdk": 3}) == expected
    assert await hub.of() == expected, "it is remembered"
    assert hub.asked[0] == f"{HUB}/{place}/tokenizer_config.json"
    assert len(hub.asked) == len({*hub.asked})


async def test_name_of_the_configuration_counts_where_the_replica_reports_none() -> None:
    for info in (None, b"<html>", {"model_id": None}, [1]):
        hub = Hub({"named/resolve/main/tokenizer_config.json": {"chat_template": "T"}})
        assert (await hub.of(info=info)).chat_template == "T"


async def test_written_fields_win_and_nothing_is_asked_for_them() -> None:
    hub = Hub({"named/resolve/main/tokenizer_config.json": {"chat_template": "T", "eos_token": "E"}})
    assert await hub.of(Model("named", "tgi", chat_template="mine", eos_token="</s>")) == ("mine", "</s>")
    assert hub.asked == []
    assert await hub.of(Model("named", "tgi", chat_template="mine")) == ("mine", "E")
    assert await hub.of(Model("named", "tgi", eos_token="</s>")) == ("T", "</s>")
    assert await Hub({}).of(Model("named", "tgi", chat_template="mine")) == ("mine", None)


@pytest.mark.parametrize(
    ("info", "file", "reason"),
    [
        ({"model_id": "/data/weights"}, None, "'/data/weights' is not the name of a model on the hub"),
        ({"model_id": "../../etc"}, None, "not the name of a model"),
        ({"model_id": "org/a..b"}, None, "not the name of a model"),
        ({"model_id": "org/tiny", "model_sha": "a/../b"}, None, "not the name of a model"),
        (None, None, "there is no https://huggingface.co/named/resolve/main/tokenizer_config.json"),
        (None, OSError("timed out"), "cannot be read: timed out"),
        (None, {"eos_token": "x"}, "the tokenizer configuration of named has none"),
        (None, {"chat_template": 7}, "the tokenizer configuration of named has none"),
        (None, {"chat_template": "x" * (2 << 20)}, "that of named is too large"),
        (None, b"[1]", "not a JSON object"),
        (None, b"[" * 100_000, "not a JSON object"),
    ],
)
async def test_missing_template_is_an_error_that_says_to_write_it(info: Any, file: Any, reason: str) -> None:
    hub = Hub({"named/resolve/main/tokenizer_config.json": file})
    with pytest.raises(Refusal) as caught:
        await hub.of(info=info)
    assert (caught.value.status, caught.value.code) == (500, "no_chat_template")
    assert caught.value.message.startswith("The model named has no chat template: ")
    assert reason in caught.value.message
    assert caught.value.hint == "Write `chat_template` into the `model` of the service"


async def test_failure_is_not_repeated_for_a_while() -> None:
    hub = Hub({"named/resolve/main/tokenizer_config.json": OSError("no network")})
    for _ in range(3):
        with pytest.raises(Refusal):
            await hub.of()
    assert len(hub.asked) == 1
    hub.files["named/resolve/main/tokenizer_config.json"] = {"chat_template": "T"}
    hub.now_s = FAILURE_HOLDS_S + 1
    assert (await hub.of()).chat_template == "T"


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/moved":
                self.send_response(302)
                self.send_header("location", "/file")
            case "/to-a-file":
                self.send_response(302)
                self.send_header("location", "file:///etc/passwd")
            case "/file" | "/large":
                self.send_response(200)
            case "/private":
                self.send_response(401)
            case _:
                self.send_response(500)
        body = {"/file": b"content", "/large": b"x" * 2000}.get(self.path, b"")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_are_fetched_within_bounds(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "FILE_BYTES_MAX", 1000)
    assert fetch_file(f"{pages}/file") == fetch_file(f"{pages}/moved") == b"content"
    assert fetch_file(f"{pages}/private") is None
    for url in (
        f"{pages}/to-a-file",
        f"{pages}/large",
        f"{pages}/broken",
        "file:///etc/passwd",
        "http://[",
        "https://x\n",
    ):
        with pytest.raises(OSError, match=r".+"):
            fetch_file(url)


async def test_replica_is_asked_for_its_model(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await plane.server()
    target = Tcp("127.0.0.1", server.port)
    for _ in range(3):  # the second answer has a head that was read before
        assert json.loads(await ask(plane.data_plane, target, b"/info")) == server.info
    with pytest.raises(OSError, match="it answered with the status 404"):
        await ask(plane.data_plane, target, b"/nothing")
    monkeypatch.setattr(asking, "ANSWER_BYTES_MAX", 10)
    with pytest.raises(OSError, match="its answer has more than"):
        await ask(plane.data_plane, target, b"/info")
    await server.close()
    with pytest.raises(OSError, match=r".+"):
        await ask(plane.data_plane, target, b"/info")


async def test_chat_with_a_model_of_the_hub(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await plane.server()
    hub = Hub({"tests/tiny/resolve/main/tokenizer_config.json": {"chat_template": TEMPLATE, "eos_token": "<end>"}})
    monkeypatch.setattr(plane.models._conversion, "tokenizers", hub.tokenizers)
    plane.follow(service("tgi", server, format="tgi"))
    for _ in range(2):
        answer = await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
        assert answer.status_code == 200
    assert [target for _, target, _, _ in server.requests] == ["/info", "/generate", "/generate"]
    generate = json.loads(server.requests[-1][3])
    assert (generate["inputs"], generate["parameters"]["stop"]) == ("<user>hello<end><assistant>", ["<end>"])
    plane.follow(service("tgi", await plane.server(), format="tgi", created_at=1))
    hub.files.clear()
    answer = await plane.send("main/chat/completions", {"model": "tiny", "messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "no_chat_template")
