"""Is a study's control the run that scratch is, without training it to the end?

    python benchmarks/check_control.py --data-root /path/to/data

A control's encoder has random weights that went through the whole transfer, so that its fine-tuning has to be scratch's
to the last bit. What a run will do is decided by its state (weights, the optimizer's moments, the schedule, the random
generators, the kept model): where the states of two runs are the same after an epoch, so is all that follows. So each
cell's control and scratch are trained for one epoch, on one machine, and everything in their checkpoints is compared.
"""
import os
import shutil
import sys
from dataclasses import replace

import torch
from common import finish, parse

from simseg.evidence.comparisons import encoder_kind
from simseg.base.files import resolve_path
from simseg.simclr import run_simclr
from simseg.study.grid import Run, study_runs
from simseg.study.files import read_study
from simseg.unet import run_unet


def first_difference(control: dict, scratch: dict) -> str:
    "In what two states differ, bit for bit; empty where in nothing."
    try: torch.testing.assert_close(control, scratch, rtol=0, atol=0, equal_nan=True)
    except AssertionError as difference: return " ".join(str(difference).split())
    return ""


def state_after_an_epoch(run: Run) -> dict:
    "Everything that a run would go on with; its files are gone again."
    params = {**run.params, "stop_after": 1}
    folder = resolve_path(params["out_dir"])
    shutil.rmtree(folder, ignore_errors=True)
    run_unet(params)
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    for row in state["history"]: del row["images_per_second"]  # the clock's, and no result
    shutil.rmtree(folder)
    return state


def compared_cells(study: dict) -> list[dict]:
    "A row for each cell of the control."
    rows = []
    for run in study_runs(study, "unet"):
        if encoder_kind(study, run.start) != "control": continue
        for pretraining in run.inputs: run_simclr(pretraining.params)
        control = state_after_an_epoch(run)
        scratch = state_after_an_epoch(replace(run, start="scratch"))
        loss = control["history"][-1]["loss"]
        cell = {"encoder": run.start, "recipe": run.recipe, "label_ratio": run.ratio, "seed": run.seed}
        row = {**cell, "loss": f"{loss:.6f}"}
        rows.append({**row, "difference": first_difference(control, scratch) or "none"})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    args = parse(__doc__, study="params/pets-long.yaml", data_root="")
    study = read_study(args.study)
    study |= {"name": f"{study['name']}-control-{os.getpid()}", "data_root": args.data_root, "device": args.device}
    rows = compared_cells(study)
    shutil.rmtree(resolve_path(f"outputs/{study['name']}"))
    finish("control", rows, args)
    sys.exit(any(row["difference"] != "none" for row in rows))
