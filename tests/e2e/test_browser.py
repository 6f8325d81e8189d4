"""Web apps as services in Chromium: scripts, WebSockets, server-sent events, uploads, redirects and cookies."""

import json
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.e2e.home import Home, wait_for
from tests.machine import missing
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.server("shared")

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

APP = '''
import os, sys
from aiohttp import WSMsgType, web

BASE = sys.argv[1]  # the start of the paths that arrive: empty where the prefix is removed
PAGE = """<!doctype html><title>app</title><link rel=icon href="data:,"><p id=outcome></p>
<script src="script.js"></script>"""
SCRIPT = """
const socket = new Promise((resolve, reject) => {
  const one = new WebSocket(new URL("socket", location.href.replace(/^http/, "ws"))), received = [];
  one.onopen = () => { one.send("hello"); one.send(new Uint8Array(100000)); };
  one.onmessage = (event) => { received.push(event.data.size ?? event.data); received.length == 2 && one.close(1000); };
  one.onclose = (event) => resolve([...received, event.code]);
});
const events = new Promise((resolve) => {
  const source = new EventSource("events"), received = [];
  source.onmessage = (event) => received.push(event.data);
  source.addEventListener("end", (event) => { source.close(); resolve([...received, event.lastEventId]); });
});
async function upload(body) {
  const answer = await fetch("upload", {method: "POST", body});
  return [answer.status, await answer.json()];
}
const form = new FormData();
form.append("file", new Blob([new Uint8Array(3 << 20)]), "weights.bin");
async function whereabouts() {
  const answer = await fetch("redirect");
  return [answer.redirected, new URL(answer.url).pathname, await answer.json()];
}
const finished = Promise.all([socket, events, upload(new Uint8Array(5 << 20)), upload(form), whereabouts()]).then(
  ([socket, events, upload, form, redirect]) => {
    const outcome = {socket, events, upload, form, redirect};
    document.getElementById("outcome").textContent = JSON.stringify(outcome);
  });
"""

async def page(request):
    return web.Response(text=PAGE, content_type="text/html")

async def script(request):
    return web.Response(text=SCRIPT, content_type="text/javascript")

async def socket(request):
    one = web.WebSocketResponse()
    await one.prepare(request)
    async for message in one:
        await (one.send_str if message.type == WSMsgType.TEXT else one.send_bytes)(message.data)
    return one

async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(3):
        await answer.write(b"data: %d\\n\\n" % number)
    await answer.write(b"id: last\\nevent: end\\ndata: x\\n\\n")
    await request.content.read()
    return answer

async def upload(request):
    size = 0
    if request.content_type == "multipart/form-data":
        part = (await request.post())["file"]
        return web.json_response([part.filename, len(part.file.read())])
    async for data in request.content.iter_any():
        size += len(data)
    return web.json_response(size)

async def redirect(request):
    prefix = request.headers["X-Forwarded-Prefix"]
    answer = web.Response(status=303, headers={"Location": prefix + "/facts"})
    answer.set_cookie("session", "7", path=prefix + "/", httponly=True, samesite="Strict")
    return answer

async def facts(request):
    kept = ("X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Host")
    return web.json_response([request.path, dict(request.cookies), *(request.headers[name] for name in kept)])

app = web.Application(client_max_size=16 << 20)
for path, handler in (("/", page), ("/script.js", script), ("/socket", socket), ("/events", events),
                      ("/redirect", redirect), ("/facts", facts)):
    app.router.add_get(BASE + path, handler)
app.router.add_post(BASE + "/upload", upload)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
'''


class Tab:
    """A page of a browser, driven through its debugger."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._connection.recv(PATIENCE_S))).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page; of a promise once it is kept."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def opens(self, url: str, shown: str | None = None) -> None:
        """Go to an address, and wait for its page: that of another address where the first one leads there."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, result
        wait_for("the page", lambda: self.value("[location.href, document.readyState]") == [shown or url, "complete"])


@pytest.fixture
def tab(home: Home) -> Iterator[Tab]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("Chromium is not installed")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server")
    options += ("--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={home.path / 'chromium'}")
    browser = home.start_program(program, *options, "about:blank")
    assert browser.stderr is not None
    port = next(found[1] for line in browser.stderr if (found := re.search(r"listening on ws://[^:]+:(\d+)/", line)))

    def pages() -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as answer:
            return [one["webSocketDebuggerUrl"] for one in json.load(answer) if one["type"] == "page"]

    wait_for("the first page", lambda: pages() != [])
    with connect(pages()[0], max_size=None, proxy=None) as connection:
        tab = Tab(connection)
        yield tab
        tab.call("Browser.close")  # the program may be a script around the browser, which outlives it
    browser.communicate(timeout=PATIENCE_S)


def apply(home: Home, name: str, more: str) -> str:
    """Apply a web app; return its URL, which does not answer at once."""
    base = f"/proxy/services/{home.project}/{name}" if "strip_prefix: false" in more else "''"
    home.write("app.py", APP)
    home.write(
        f"{name}.dstack.yml",
        f"type: service\nname: {name}\nport: 8000\nresources: {{cpu: 0.., memory: 0.., disk: 0..}}\n{more}"
        f'commands: ["exec {sys.executable} {home.path}/app.py {base}"]\n',
    )
    done = home.cli("apply", "-y", *(["-d"] if "auth: true" in more else []), "-f", f"{name}.dstack.yml")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


def test_web_app_works_in_a_browser_with_its_prefix_and_without(home: Home, tab: Tab) -> None:
    for name, more in (("cut", "auth: false\n"), ("whole", "auth: false\nstrip_prefix: false\n")):
        url = apply(home, name, more)
        prefix = f"/proxy/services/{home.project}/{name}"
        for entry in (url, url.rstrip("/")):
            tab.opens(entry, url)
            tab.value("finished")
            shown = json.loads(tab.value("document.getElementById('outcome').textContent"))
            path = f"{prefix}/facts" if name == "whole" else "/facts"
            facts = [path, {"session": "7"}, prefix, "http", url.split("/")[2]]
            assert shown == {
                "socket": ["hello", 100000, 1000],
                "events": ["0", "1", "2", "last"],
                "upload": [200, 5 << 20],
                "form": [200, ["weights.bin", 3 << 20]],
                "redirect": [True, f"{prefix}/facts", facts],
            }
            assert tab.value("document.cookie") == "", "it is for the app alone"


def test_browser_without_a_token_sees_why_it_is_refused(home: Home, tab: Tab) -> None:
    url = apply(home, "locked", "auth: true\n")

    def hint() -> bool:  # the first service of a server starts its data plane
        tab.opens(url)
        return "`auth: false`" in tab.value("document.body.innerText")

    wait_for("the hint", hint)
