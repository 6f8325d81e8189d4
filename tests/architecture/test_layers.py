import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import PACKAGE, ROOT

CONTRACTS = {
    # contract: a sin against it
    "Imports point down": ("errors.py", "import dstack.protocol.routes"),
    "Domain and steps are pure": ("engine/jobs/watching.py", "import subprocess"),
    "Backends do not know each other": ("backends/other.py", "import dstack.backends.local"),
    "Nobody imports a cloud by name": ("engine/catalog.py", "import dstack.backends.local"),
    "The agent stays small": ("agent/jobs.py", "import sqlalchemy"),
    "The client never loads the server": ("api/_client.py", "import dstack.store.objects"),
}


def lint(source: Path) -> "subprocess.CompletedProcess[str]":
    """Check the contracts of the package in the folder `source`."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", "--config", ROOT / ".importlinter"],
        env=os.environ | {"PYTHONPATH": str(source)},
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_every_import_keeps_the_contracts() -> None:
    checked = lint(PACKAGE.parent)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for contract in CONTRACTS:
        assert f"{contract} KEPT" in checked.stdout


def test_a_contract_that_is_broken_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "dstack", ignore=shutil.ignore_patterns("__pycache__"))
    for name, statement in CONTRACTS.values():
        with (tmp_path / "dstack" / name).open("a", encoding="utf-8") as module:
            module.write(f"\n{statement}\n")
    checked = lint(tmp_path)
    assert checked.returncode != 0
    for contract in CONTRACTS:
        assert f"{contract} BROKEN" in checked.stdout, checked.stdout + checked.stderr
