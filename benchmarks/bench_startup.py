"""What does a run cost before and after training? Seconds to import each module, and what a stage notebook takes beyond its run cell, executed by papermill.

Every measurement is a process of its own. Two lines say what no notebook of ours can go below: the import of the libraries that a stage uses, and
papermill with an empty notebook.

    python benchmarks/bench_startup.py
"""
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, parse

from simseg.core import repo_root

MODULES = ["torch", "torch, segmentation_models_pytorch, sklearn.linear_model, matplotlib.pyplot, pandas", "simseg", "simseg.core", "simseg.data", "simseg.augmentations", "simseg.simclr", "simseg.unet", "simseg.evaluation", "simseg.study"]
STAGES = ["02_simclr", "03_unet", "04_evaluation"]


def seconds_of(command: list[str]) -> float:
    "How long a command takes, start of the interpreter included."
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=repo_root())
    return time.perf_counter() - start


def execute(notebook, out: Path, *options: str) -> float:
    "How long papermill takes with a notebook."
    return seconds_of([sys.executable, "-m", "papermill", "--kernel", "python3", str(notebook), str(out), *options])


def overhead(stage: str, folder: str) -> float:
    "A stage's seconds, from papermill's start to its end, less those of the cell that trains or evaluates."
    out, parameters = Path(folder) / f"{stage}.ipynb", {"out_dir": f"{folder}/{stage}"}
    if stage == "04_evaluation": parameters |= {"model_dir": f"{folder}/03_unet/model"}
    options = [part for name, value in parameters.items() for part in ("-r", name, value)]
    total = execute(f"nbs/{stage}.ipynb", out, *options)
    (run,) = [cell for cell in json.loads(out.read_text())["cells"] if cell["cell_type"] == "code" and f"run_{stage[3:]}(params)" in "".join(cell["source"])
              and "#| export" not in "".join(cell["source"])]
    return total - run["metadata"]["papermill"]["duration"]


if __name__ == "__main__":
    args, rows = parse(__doc__, rounds=5), []
    with tempfile.TemporaryDirectory() as folder:
        measures = {f"import {name}": lambda name=name: seconds_of([sys.executable, "-c", f"import {name}"]) for name in MODULES}
        empty = Path(folder) / "empty.ipynb"
        empty.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        measures["papermill, an empty notebook"] = lambda: execute(empty, empty)
        measures |= {f"{stage} beyond its run": lambda stage=stage: overhead(stage, folder) for stage in STAGES}
        measured = {what: [] for what in measures}
        for _ in range(args.rounds):
            for what, measure in measures.items(): measured[what].append(measure())
    for what, seconds in measured.items(): rows.append({"what": what, "seconds": f"{statistics.median(seconds):.2f}", "least": f"{min(seconds):.2f}", "most": f"{max(seconds):.2f}"})
    finish("startup", rows, args)
