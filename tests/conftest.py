"What the tests share: where things lie, small runs, and commands as users type them."
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml

from simseg.base.parameters import parameter_defaults
from simseg.base.run import read_state
from simseg.simclr import run_simclr
from simseg.study.grid import BASE, Run, study_runs
from simseg.study.results import judge_runs

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def small(stage: str, out_dir: Path, **changed) -> dict:
    "Parameters of a run that takes a second or two, on the CPU."
    params = parameter_defaults(stage)
    if "max_images" in params: params["max_images"] = 64
    if "batch_size" in params: params["batch_size"] = 16
    return {**params, "device": "cpu", "out_dir": str(out_dir), **changed}


def torchrun(n: int, params: dict, *program: str, **more) -> subprocess.Popen:
    "Start `simseg pretrain`, or another program that takes its file, as so many processes."
    file = Path(params["out_dir"]).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command += [*(program or ("-m", "simseg", "pretrain")), file]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=with_our_commands(**more), **pipes)


# Of two processes each would import for five seconds; they are forked from one that has imported what they need.
multiprocessing.set_forkserver_preload(["simseg.simclr", "segmentation_models_pytorch", "sklearn.neighbors",
                                        "sklearn.linear_model", "accelerate", "pytest"])


def start_two(function, *arguments):
    "Call a function in two processes, with its rank first; raise what one of them raised."
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def launched_run(rank: int, meet: str, params: dict):
    "What each of two processes does that torchrun would start."
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "TORCHELASTIC_RUN_ID": "tests"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    run_simclr(params)
    torch.distributed.destroy_process_group()


def fork_two(params: dict): start_two(launched_run, f"{tempfile.mkdtemp()}/meet", params)


# A study's cells by arm, ratio and seed, as its folders have them

def run_at(study: dict, stage: str, arm: str, seed: int, ratio: float | None = None) -> Run:
    return Run(study, stage, *arm.split("-"), ratio=ratio, seed=seed)


def study_cells(study: dict) -> list[tuple]:
    return [(run.arm, run.ratio, run.seed) for run in study_runs(study, "evaluation")]


def pretrainings(study: dict) -> list[tuple]: return [(run.start, run.seed) for run in study_runs(study, "simclr")]


def run_dir(study: dict, *run) -> str: return run_at(study, *run).out_dir


def run_params(study: dict, *run) -> dict: return run_at(study, *run).params


def simclr_params(study: dict, start: str, seed: int) -> dict: return Run(study, "simclr", start, seed=seed).params


def unet_params(study: dict, arm: str, ratio: float, seed: int) -> dict:
    return run_at(study, "unet", arm, seed, ratio).params


def evaluation_params(study: dict, arm: str, ratio: float, seed: int) -> dict:
    return run_at(study, "evaluation", arm, seed, ratio).params


def runs_of_cell(study: dict, arm: str, ratio: float, seed: int) -> list[tuple]:
    chain = run_at(study, "evaluation", arm, seed, ratio).chain
    return [(run.stage, run.arm, run.seed, *([] if run.stage == "simclr" else [run.ratio])) for run in chain]


def judge_cells(study: dict) -> dict:
    "Of each finished cell why it is stale; empty for one that counts."
    done = [run for run in study_runs(study, "evaluation")
            if all(read_state(each.folder)["state"] == "done" for each in (run, run.at("unet")))]
    judged = judge_runs(study)
    return {(run.arm, run.ratio, run.seed): judged[run] for run in done}


def arm_name(start: str, recipe: str) -> str: return start if recipe == BASE else f"{start}-{recipe}"


def with_our_commands(**more) -> dict:
    "The environment of a process that finds this environment's commands first."
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **more}


# files of which one takes half a minute or more: they start runs, most of them as processes that import torch
LONGEST = ["test_uses", "test_study", "test_browser", "test_classes", "test_stopped", "test_processes",
           "test_surroundings", "test_runs", "test_run", "test_predict", "test_mistakes", "test_damage", "test_writing"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    "Begin with the longest files, so that two workers end together."
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


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
