"""The page on models, followed to the letter, with a small model of characters where the page has a large one."""

import json
import re
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.sources import ROOT
from tests.e2e.home import TOKEN, Home, wait_for
from tests.model_server import train

pytestmark = pytest.mark.server("own")

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
YAMLS, SHELLS, PYTHONS = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("yaml", "sh", "python"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has read the pages of the documentation."""
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    path = tmp_path_factory.mktemp("model") / "table.json"
    path.write_text(json.dumps(train(pages)), encoding="utf-8")
    return path


def as_here(written: str, table: Path) -> dict[str, Any]:
    """Return a configuration of the page with a command that this machine can run."""
    configuration: dict[str, Any] = yaml.safe_load(written)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    for name in ("image", "resources", "env"):
        configuration.pop(name)
    server = ROOT / "tests" / "model_server.py"
    return configuration | {
        "port": port,
        "commands": [f"exec {sys.executable} {server} ${{PORT:-{port}}} --model {table}"],
        "resources": {"cpu": 1, "memory": "1GB", "disk": "1GB"},
    }


def apply(home: Home, configuration: dict[str, Any]) -> None:
    home.write("model.dstack.yml", yaml.safe_dump(configuration))
    done = home.cli("apply", "-y", "-d", "-f", "model.dstack.yml")
    assert done.returncode == 0, done.stderr


def test_page_on_models_works_as_written(home: Home, table: Path) -> None:
    about = home.serve()
    exports = dict(re.findall(r"^export (\w+)=(\S+)$", SHELLS[0], re.MULTILINE))
    assert exports["OPENAI_API_KEY"] == "$DSTACK_TOKEN"
    base_url = exports["OPENAI_BASE_URL"].replace("http://127.0.0.1:3000", about["DSTACK_SERVER_URL"])
    home.env |= {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": TOKEN, "NO_PROXY": "127.0.0.1"}

    def chat(name: str) -> Any:
        done = home.run_program("sh", "-c", SHELLS[1].replace("meta/llama", name))
        assert done.returncode == 0, done.stderr
        listed, end = json.JSONDecoder().raw_decode(done.stdout)
        return [one["id"] for one in listed.get("data", [])], json.loads(done.stdout[end:])

    llama, mistral = (as_here(written, table) for written in YAMLS)
    for configuration, names in ((llama, ["meta/llama"]), (mistral, ["meta/llama", "mistral"])):
        if configuration is mistral:  # there is room for two
            apply(home, llama | {"replicas": 1})
        apply(home, configuration)
        name = names[-1]
        wait_for("the model", lambda name=name: "choices" in chat(name)[1])
        listed, answer = chat(name)
        assert listed == names
        assert (len(answer["choices"][0]["message"]["content"]), answer["usage"]["completion_tokens"]) == (40, 40)
        done = home.run_program(sys.executable, "-c", PYTHONS[0].replace("meta/llama", name))
        assert (done.returncode, len(done.stdout), done.stderr) == (0, 40, "")
    assert chat("nothing")[1]["error"]["message"] == (
        "The project main has no model 'nothing'. Models of this project: meta/llama, mistral"
    )
