"""How well do a study's models do on development images whose labels no cell of their draw uses?

To choose settings by before a study is run, on seeds that it does not use: at 1 % labels a validation set has seven
images, which decide nothing, and the test images are kept for the study itself.
"""
import sys

import torch
from common import finish, parse

from simseg.consistency import without_labels
from simseg.core import make_accelerator, resolve_path
from simseg.masks import summarise
from simseg.study import read_history, read_study, split_arm, study_cells, study_data, unet_params
from simseg.unet import count_images, load_model


def knn_accuracy(study: dict, encoder: str, seed: int) -> str:
    "Of the pretraining's last epoch so far."
    history = read_history(study, "simclr", encoder, seed)
    return f"{history['knn_accuracy'].iloc[-1]:.3f}" if "knn_accuracy" in history else "–"


def measured_cells(study: dict, device: str) -> list[dict]:
    "A row for each model that there is."
    data, _ = study_data(study)
    most = max(study["label_ratios"])
    if most >= 0.8: sys.exit(f"choose.py looks at images that no cell has labels of, and {most:g} leaves none.")
    accelerator = make_accelerator(device)
    images = torch.from_numpy(data.images)
    masks = torch.from_numpy(data.masks)
    rows = []
    for arm, ratio, seed in study_cells(study):
        params = unet_params(study, arm, ratio, seed)
        if not (resolve_path(params["out_dir"]) / "metrics.json").is_file(): continue
        model, _ = load_model(f"{params['out_dir']}/model")
        model = model.to(accelerator.device, memory_format=torch.channels_last)
        unseen = without_labels(data, most, params["split"], params["split_seed"], params["label_seed"])
        counts = count_images(model, images, masks, torch.from_numpy(unseen), accelerator, params["border"])
        encoder, recipe = split_arm(arm)
        row = {"encoder": encoder, "recipe": recipe, "label_ratio": ratio, "seed": seed, "images": len(unseen)}
        row |= {"k-NN": knn_accuracy(study, encoder, seed), "iou": f"{summarise(counts, data.classes)['iou']:.3f}"}
        rows.append(row)
    return rows


if __name__ == "__main__":
    args = parse(__doc__, study="outputs/pets-long-trials/study.yaml")
    finish("choose", measured_cells(read_study(args.study), args.device), args)
