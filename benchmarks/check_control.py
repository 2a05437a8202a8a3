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

import torch
from common import finish, parse

from simseg.compare import encoder_kind
from simseg.core import resolve_path
from simseg.simclr import run_simclr
from simseg.study import arm_name, read_study, simclr_params, split_arm, study_cells, unet_params
from simseg.unet import run_unet


def first_difference(control: dict, scratch: dict) -> str:
    "In what two states differ, bit for bit; empty where in nothing."
    try: torch.testing.assert_close(control, scratch, rtol=0, atol=0, equal_nan=True)
    except AssertionError as difference: return " ".join(str(difference).split())
    return ""


def state_after_an_epoch(study: dict, arm: str, ratio: float, seed: int) -> dict:
    "Everything that a run would go on with; its files are gone again."
    params = {**unet_params(study, arm, ratio, seed), "stop_after": 1}
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
    for arm, ratio, seed in study_cells(study):
        encoder, recipe = split_arm(arm)
        if encoder_kind(study, encoder) != "control": continue
        run_simclr(simclr_params(study, encoder, seed))
        control = state_after_an_epoch(study, arm, ratio, seed)
        scratch = state_after_an_epoch(study, arm_name("scratch", recipe), ratio, seed)
        loss = control["history"][-1]["loss"]
        row = {"encoder": encoder, "recipe": recipe, "label_ratio": ratio, "seed": seed, "loss": f"{loss:.6f}"}
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
