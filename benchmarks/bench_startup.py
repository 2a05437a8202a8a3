"""What does a run cost before and after training? Seconds to import each module, and of each stage as a batch job that
trains nothing (epochs=0), as a study runs it: papermill --engine simseg.

Every measurement is a process of its own. Two lines say what no stage of ours can go below: the import of the libraries
that it uses, and papermill with an empty notebook. With --other, each stage runs in turn here and in another checkout,
there by plain papermill, whatever the numbers of its notebooks.

    python benchmarks/bench_startup.py
    git worktree add /tmp/before a36b626 && python benchmarks/bench_startup.py --other /tmp/before
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, in_turn, parse

from simseg.core import repo_root

LIBRARIES = ["torch", "torch, segmentation_models_pytorch, sklearn.linear_model, matplotlib.pyplot, pandas"]
MODULES = ["core", "run", "data", "augmentations", "simclr", "unet", "evaluation", "study", "report", "batch"]
STAGES = ["simclr", "unet", "evaluation"]


def seconds_of(command: list, checkout: Path) -> float:
    "How long a command takes in a checkout, start of the interpreter included."
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=checkout, env=environment)
    return time.perf_counter() - start


def execute(checkout: Path, notebook: Path, out: Path, *options) -> float:
    "How long papermill takes with a notebook."
    papermill = [sys.executable, "-m", "papermill", "--kernel", "python3", "--no-progress-bar"]
    return seconds_of([*papermill, notebook, out, *options], checkout)


class StageRuns:
    "Each stage of a checkout as a batch job that trains nothing, one after another into a new folder."

    def __init__(self, checkout: Path, folder: Path, engine: list[str]):
        self.checkout = checkout
        self.folder = folder
        self.engine = engine

    def run(self, stage: str) -> float:
        "Seconds of a stage; the evaluation is of the model that the U-Net's run has just written."
        if stage == STAGES[0]: self.out = Path(tempfile.mkdtemp(dir=self.folder))
        parameters = {"out_dir": self.out / stage, "epochs": 0}
        if stage == "evaluation": parameters = {"out_dir": self.out / stage, "model_dir": self.out / "unet" / "model"}
        (notebook,) = (self.checkout / "nbs").glob(f"[0-9]*_{stage}.ipynb")
        options = [str(part) for name, value in parameters.items() for part in ("-p", name, value)]
        return execute(self.checkout, notebook, self.out / notebook.name, *self.engine, *options)

    def measures(self, where: str) -> dict:  # name → function that gives seconds
        "A contestant for each stage."
        return {f"{stage} as a batch job{where}": self.measure(stage) for stage in STAGES}

    def measure(self, stage: str):
        def run(): return self.run(stage)
        return run


def import_of(names: str, checkout: Path):
    "A function that gives the seconds of an import."
    def run(): return seconds_of([sys.executable, "-c", f"import {names}"], checkout)
    return run


def contestants(args, folder: Path) -> dict:  # name → function that gives seconds
    "Everything that is measured."
    here = repo_root()
    empty = folder / "empty.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel}
    text = json.dumps({"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    empty.write_text(text, encoding="utf-8")

    def nothing(): return execute(here, empty, empty)

    modules = ["simseg", *(f"simseg.{name}" for name in MODULES)]
    found = {f"import {names}": import_of(names, here) for names in [*LIBRARIES, *modules]}
    found["papermill, an empty notebook"] = nothing
    ours = StageRuns(here, folder, ["--engine", "simseg"]).measures("")
    if not args.other: return found | ours
    other = Path(args.other).resolve()
    theirs = StageRuns(other, folder, []).measures(", other")
    for mine, their in zip(ours.items(), theirs.items()): found |= dict([mine, their])
    return found


if __name__ == "__main__":
    args = parse(__doc__, rounds=5, other="")
    with tempfile.TemporaryDirectory() as folder: measured = in_turn(contestants(args, Path(folder)), args.rounds)
    rows = []
    for what, seconds in measured.items():
        row = {"what": what, "seconds": f"{statistics.median(seconds):.2f}"}
        rows.append({**row, "least": f"{min(seconds):.2f}", "most": f"{max(seconds):.2f}"})
    finish("startup", rows, args)
