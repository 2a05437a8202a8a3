"What the tests share: where things lie, small runs, and commands as users type them."
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from simseg.core import parameter_defaults

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def small(stage: str, out_dir: Path, **changed) -> dict:
    "Parameters of a run that takes a second or two, on the CPU."
    params = parameter_defaults(stage)
    if "max_images" in params: params["max_images"] = 64
    if "batch_size" in params: params["batch_size"] = 16
    return {**params, "device": "cpu", "out_dir": str(out_dir), **changed}


def with_our_commands(**more) -> dict:
    "The environment of a process that finds this environment's commands first."
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    "Decoded images of the tests go to a folder of their own; runs started from here inherit it."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def papermill(tmp_path):
    "Run a stage notebook as a study does, from the top of the repository."
    def run(notebook, *options, env=None, **params):
        command = [BIN / "papermill", "--engine", "simseg", "--kernel", "python3", "--no-progress-bar"]
        command += [f"nbs/{notebook}.ipynb", tmp_path / f"{notebook}.ipynb", *options]
        for name, value in params.items(): command += ["-p", name, str(value)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    "A folder that simseg takes for the top of a repository, so that a study's outputs/ lie below it."
    folder = tmp_path / "workplace"
    (folder / "nbs").mkdir(parents=True)
    (folder / "settings.ini").touch()
    monkeypatch.chdir(folder)
    return folder


# the beginning of a study file
TWO_ENCODERS = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.5]
seeds: [0]
encoders: {{scratch: , animals: {{dataset: synthetic, max_images: 96}}}}
"""
# results.sha256 has a line for each file that a run has made, with what it holds
COMPARED = ["results.csv", "comparisons.csv", "**/metrics.json", "**/results.sha256", "**/per_image.csv"]


def results(folder: Path) -> dict:
    "What each file of a study holds that is compared, by its path."
    files = [path for pattern in COMPARED for path in sorted(folder.glob(pattern))]
    return {str(path.relative_to(folder)): path.read_text().replace(folder.name, "NAME") for path in files}


@pytest.fixture
def make_study(tmp_path):
    "Makes study files; the folders of their results are removed at the end."
    folders = []

    def make(kind: str, text: str):
        name = f"test-{kind}-{os.getpid()}"
        file = tmp_path / f"{name}.yaml"
        file.write_text(text.format(name=name))
        folders.append(ROOT / "outputs" / name)
        return file, folders[-1]

    yield make
    for folder in folders: shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def checkout(tmp_path):
    "A copy of what nbdev works on, for commands that would change it."
    copy = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("__pycache__", ".*")
    for part in ("nbs", "simseg"): shutil.copytree(ROOT / part, copy / part, ignore=left_out)
    for part in ("settings.ini", "setup.py", "README.md"): shutil.copy(ROOT / part, copy / part)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    return copy
