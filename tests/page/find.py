"""Where the page itself is: it is somebody else's text, and not part of this project."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOW = "give the text of the page by DSTACK_API_PAGE, or put it into shared/reference/ as 000_*.txt"


def find_page() -> str | None:
    """The page's text, or None where it is not here."""
    given = os.environ.get("DSTACK_API_PAGE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    for folder in (ROOT, ROOT.parent):
        for path in sorted((folder / "shared" / "reference").glob("000_*.txt")):
            return path.read_text(encoding="utf-8")
    return None
