import re
import runpy
import tomllib
from html import unescape

from tests.architecture.sources import MODULES, ROOT, files

MODULE_OF = {"pyyaml": "yaml"}

# Put together from halves, so that this file does not name what it looks for.
FOREIGN = re.compile("|".join(["/work" + "/", "/root" + "/", r"(?:test\.)?py" + r"pi\.org", "python" + "hosted"]))


def test_pages_that_come_from_the_code_say_what_it_says() -> None:
    pages = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["PAGES"]
    stale = [name for name, page in pages.items() if (ROOT / name).read_text(encoding="utf-8") != page()]
    assert stale == [], "run `make docs`"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {_name(requirement) for requirement in wanted} - {project["name"]}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert names == set(re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE))


def test_every_dependency_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {MODULE_OF.get(name, name) for name in (_name(one) for one in project["dependencies"])}
    imported = re.findall(r"^\s*(?:import|from) (\w+)", "\n".join(path.read_text() for path in MODULES), re.MULTILINE)
    assert names - {"httptools"} <= set(imported), "uvicorn finds httptools by itself; nobody finds the others"


def test_nothing_tells_on_which_machine_it_was_written() -> None:
    found = {}
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if hits := FOREIGN.findall(text):
            found[str(path.relative_to(ROOT))] = hits
    assert found == {}


def test_no_text_names_a_package_that_is_not_published() -> None:
    published = re.compile(r"install\b[^\n]*dstack-" + "orchestrator")
    assert [
        str(path.relative_to(ROOT)) for path in files() if published.search(path.read_text("utf-8", "replace"))
    ] == []


def test_picture_of_the_demo_shows_texts_of_the_program() -> None:
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8"))
    shown = [unescape(line).replace("\xa0", " ").removeprefix("digits") for line in lines]
    begin = next(place for place, line in enumerate(shown) if line.startswith("Project"))
    end = next(place for place, line in enumerate(shown) if "follows" in line)
    plan = [line for line in shown[begin : end + 1] if not line.startswith("Files")]
    phrases = {phrase for line in plan for phrase in re.findall(r"[A-Za-z]+(?: [A-Za-z]+)+", line)}
    assert len(phrases) >= 6
    program = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert {phrase for phrase in phrases if phrase not in program} == set()


def test_architecture_is_one_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert index == {path.name for path in folder.glob("*.md")} - {"README.md"}


def test_links_between_our_pages_lead_somewhere() -> None:
    pages = runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["PAGES"]
    generated = {ROOT / "docs" / name for name in pages}
    broken = []
    for path in files():
        if path.suffix == ".md":
            for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
                place = (path.parent / target).resolve()
                if place not in generated and not place.exists():
                    broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def _name(requirement: str) -> str:
    """The package of a requirement such as `httpx>=0.27`."""
    return re.split(r"[^\w.-]", requirement)[0]
