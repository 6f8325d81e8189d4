"""The example program of the page, as it stands there."""

import re
import sys

import pytest

from tests.e2e.home import Home
from tests.page.extract import program_in
from tests.page.find import HOW, find_page


@pytest.fixture
def program() -> str:
    text = find_page()
    if text is None:
        pytest.skip(f"the page is not here: {HOW}")
    return program_in(text)


def test_with_a_local_command_in_the_place_of_image_and_gpu_it_runs(home: Home, program: str) -> None:
    program = re.sub(r"image=\S+,\n", "", program)
    program = re.sub(r"commands=\[.*?\],", 'commands=["echo serves $MODEL_ID"],', program, flags=re.DOTALL)
    program = re.sub(r"Resources\(gpu=.*\),", "Resources(),", program)
    if not home.may_use_port(80):
        program = program.replace('"80"', '"*:80"')
    done = home.run_program(sys.executable, "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "serves TheBloke/Llama-2-13B-chat-GPTQ\n", "")
    assert [(run["name"], run["status"]) for run in home.runs()] == [("my-awesome-run", "done")]


def test_unchanged_it_says_what_is_missing_before_anything_is_made(home: Home, program: str) -> None:
    if not home.may_use_port(80):
        program = program.replace('"80"', '"*:80"')
    done = home.run_program(sys.executable, "-c", program)
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-2:]
    assert last[0].startswith("dstack.errors.NoCapacityError: No machine fits: local (")
    assert "gpu: asked 1 with memory 24GB, has none" in last[0]
    assert "`image: ghcr.io/huggingface/text-generation-inference:latest` needs a container, and there is" in last[0]
    assert last[1] == "hint: Lower the requirements, or leave out the fields that do not fit"
    assert home.runs() == []
