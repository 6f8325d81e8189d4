"""The documentation site: every page is built, and every public name has its place in the reference."""

import re
import sys
from pathlib import Path

import dstack.api
from tests.architecture.sources import ROOT
from tests.e2e.home import Home


def test_the_site_is_built_without_a_warning_and_examples_are_code(home: Home, tmp_path: Path) -> None:
    home.env["NO_MKDOCS_2_WARNING"] = "1"
    config = str(ROOT / "mkdocs.yml")
    done = home.run_program(
        *(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", config, "-d", str(tmp_path / "site"))
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "configurations" / "index.html").read_text(encoding="utf-8")
    assert "The number of machines that run the commands at once" in page
    assert "&gt;&gt;&gt;" in page and "<blockquote>" not in page
    assert "--instance-type" in (tmp_path / "site" / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "SubmitRun" in (tmp_path / "site" / "reference" / "http" / "index.html").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert set(re.findall(r"^::: dstack\.api\.(\w+)$", pages, re.MULTILINE)) - {"aio"} == set(dstack.api.__all__)
