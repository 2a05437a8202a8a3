"""What does a study cost beyond its training? Seconds to plan a new study and a finished one (dry runs), and to look at
it (`simseg status`), for 10, 100 and 300 cells; and seconds a cell when ten cells that train nothing are run.

The studies that are planned and looked at are made up: every run's folder holds the files that it would have left, of
50 test images. Each command is a process of its own, in turn, round after round.

    python benchmarks/bench_study.py
"""
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import finish, in_turn, parse

from simseg.core import repo_root, resolve_path, write_csv, write_json, write_yaml
from simseg.study import read_study, run_params, study_runs

CELLS = [10, 100, 300]
RAN_ON = {"images": "0" * 16, "precision": "fp32", "commit": "0" * 40, "machine": "made up", "seeds": {"weights": 1}}
HISTORY = [{"epoch": epoch, "loss": 0.5, "val_loss": 0.5, "val_iou": 0.5} for epoch in range(1, 9)]
COUNTS = [{"name": f"image {i}", "id": f"{i:016x}", "tp": 6, "fp": 1, "fn": 3, "tn": 22, "iou": 0.6} for i in range(50)]
METRICS = {"iou": 0.6, "val_iou": 0.5, "kept_epoch": 8, "n_train": 90, "n_val": 10, "n_images": 50, "n_left_out": 0}


def write_study(name: str, cells: int, epochs: int) -> Path:
    "A study file: two encoders, a fifth of its cells of each of five label ratios."
    study = {"name": name, "image_size": 32, "precision": "fp32", "device": "cpu",
             "label_ratios": [0.8, 0.5, 0.2, 0.1, 0.05], "seeds": list(range(cells // 10)),
             "encoders": {"scratch": None, "animals": {"dataset": "synthetic"}},
             "simclr": {"max_images": 64, "batch_size": 16, "epochs": epochs},
             "unet": {"dataset": "synthetic", "max_images": 160, "epochs": epochs}}
    return write_yaml(resolve_path(f"outputs/{name}.yaml"), study)


def leave_files(folder: Path, params: dict):
    "What a finished run leaves, as far as planning and looking read it."
    write_yaml(folder / "params.yaml", {**params, "ran_on": RAN_ON})
    write_json(folder / "state.json", {"state": "done", "epoch": 8, "epochs": 8, "when": "2026-11-25T12:00:00"})
    write_csv(folder / "history.csv", HISTORY)
    write_csv(folder / "per_image.csv", COUNTS)
    write_json(folder / "metrics.json", METRICS)
    (folder / "results.sha256").touch()


def finish_study(name: str, cells: int) -> Path:
    "The same, with the files of every run."
    file = write_study(name, cells, 8)
    study = read_study(file)
    for run in study_runs(study):
        leave_files(run["out"], run_params(study, run["stage"], run["arm"], run["seed"], run["ratio"]))
        if run["stage"] == "simclr": continue
        leave_files(run["evaluation"], run_params(study, "evaluation", run["arm"], run["seed"], run["ratio"]))
    return file


def seconds_of(*command):
    "A function that runs a command and gives its seconds."
    def measure() -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=repo_root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    return measure


def contestants(prefix: str) -> dict:  # name → function that gives seconds
    "Every command, for every size."
    bin = Path(sys.executable).parent
    snakemake = [bin / "snakemake", "--cores", "2", "--configfile"]
    found = {}
    for cells in CELLS:
        new = write_study(f"{prefix}-new-{cells}", cells, 8)
        done = finish_study(f"{prefix}-done-{cells}", cells)
        found[f"plan a new study, {cells} cells"] = seconds_of(*snakemake, new, "--dry-run")
        found[f"plan a finished one, {cells} cells"] = seconds_of(*snakemake, done, "--dry-run")
        found[f"simseg status of it, {cells} cells"] = seconds_of(bin / "simseg", "status", done)
    return found


def run_ten(prefix: str) -> float:
    "Seconds a cell of ten that train nothing, one after the other; their two encoders are not counted apart."
    file = write_study(f"{prefix}-run", 10, 0)
    seconds = seconds_of(Path(sys.executable).parent / "snakemake", "--cores", "1", "--configfile", file)()
    return seconds / 10


if __name__ == "__main__":
    args = parse(__doc__, rounds=3)
    prefix = f"bench-study-{os.getpid()}"
    measured = in_turn(contestants(prefix), args.rounds)
    measured["a cell that trains nothing, of ten"] = [run_ten(prefix)]
    for path in resolve_path("outputs").glob(f"{prefix}-*"): shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = []
    for what, seconds in measured.items():
        row = {"what": what, "seconds": f"{statistics.median(seconds):.2f}"}
        rows.append({**row, "least": f"{min(seconds):.2f}", "most": f"{max(seconds):.2f}"})
    finish("study", rows, args)
