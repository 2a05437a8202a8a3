"""How well do a study's models do on development images whose labels no cell of their draw uses?

To choose settings by before a study is run, on seeds that it does not use: at 1 % labels a validation set has seven
images, which decide nothing, and the test images are kept for the study itself.
"""
import sys

import torch
from common import finish, parse

from simseg.base.parameters import make_accelerator
from simseg.learning.metrics import summarise
from simseg.study.grid import Run, study_data, study_runs
from simseg.study.files import read_study
from simseg.study.status import read_history
from simseg.unet import count_images, load_model, without_labels


def knn_accuracy(run: Run) -> str:
    "Of the last epoch so far of the pretraining that a run begins with."
    histories = [read_history(pretraining) for pretraining in run.inputs]
    return " ".join(f"{each['knn_accuracy'].iloc[-1]:.3f}" for each in histories if "knn_accuracy" in each) or "–"


def measured_cells(study: dict, device: str) -> list[dict]:
    "A row for each model that there is."
    data, _ = study_data(study)
    most = max(study["label_ratios"])
    if most >= 0.8: sys.exit(f"choose.py looks at images that no cell has labels of, and {most:g} leaves none.")
    accelerator = make_accelerator(device)
    images = torch.from_numpy(data.images)
    masks = torch.from_numpy(data.masks)
    rows = []
    for run in study_runs(study, "unet"):
        if not (run.folder / "metrics.json").is_file(): continue
        model, _ = load_model(run.folder / "model")
        model = model.to(accelerator.device, memory_format=torch.channels_last)
        params = run.params
        unseen = without_labels(data, most, params["split"], params["split_seed"], params["label_seed"])
        counts = count_images(model, images, masks, torch.from_numpy(unseen), accelerator, params["border"])
        cell = {"encoder": run.start, "recipe": run.recipe, "label_ratio": run.ratio, "seed": run.seed}
        iou = summarise(counts, data.classes)["iou"]
        rows.append({**cell, "images": len(unseen), "k-NN": knn_accuracy(run), "iou": f"{iou:.3f}"})
    return rows


if __name__ == "__main__":
    args = parse(__doc__, study="outputs/pets-long-trials/study.yaml")
    finish("choose", measured_cells(read_study(args.study), args.device), args)
