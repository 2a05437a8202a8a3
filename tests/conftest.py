import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    "Decoded images of the tests go to a folder of their own; runs started from here inherit it."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def papermill(tmp_path):
    "Run a stage notebook as a user does, from the top of the repository."
    def run(notebook, *options, **params):
        command = [BIN / "papermill", "--kernel", "python3", "--no-progress-bar", f"nbs/{notebook}.ipynb", tmp_path / f"{notebook}.ipynb", *options]
        for name, value in params.items(): command += ["-p", name, str(value)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return run


@pytest.fixture
def checkout(tmp_path):
    "A copy of what nbdev works on, for commands that would change it."
    copy = tmp_path / "checkout"
    for part in ("nbs", "simseg"): shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for part in ("settings.ini", "setup.py", "README.md"): shutil.copy(ROOT / part, copy / part)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    return copy
