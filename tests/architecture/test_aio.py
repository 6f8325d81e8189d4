"""`dstack.api.aio` comes from the classes of `dstack.api`. Only its package and its threads are written by hand."""

from scripts.write_aio import files

from tests.architecture.sources import MODULES, PACKAGE, ROOT, shown

FOLDER = PACKAGE / "api" / "aio"
BY_HAND = {FOLDER / "__init__.py", FOLDER / "_threads.py"}


def test_asyncio_api_follows_the_classes_of_the_sync_api() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `make docs`, which writes these files from `dstack.api`"


def test_every_module_of_the_asyncio_api_has_a_class_of_the_sync_api() -> None:
    written = files().keys() | BY_HAND
    assert [shown(path) for path in MODULES if path.parent == FOLDER and path not in written] == [], (
        "delete these files"
    )
