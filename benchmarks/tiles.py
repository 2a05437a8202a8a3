"""What do tiles find that is lost when large pictures are squeezed?

    python benchmarks/tiles.py

Two sets of eight drawn pictures: cracks of two pixels in pictures of 512 × 512, and 60 cells of 14 pixels in pictures
of 1,200 × 900. A U-Net is trained on them squeezed to 64 pixels, and another on tiles, for equally many steps (five
pictures make no full batch, though). Both are tested on whole pictures, at the pictures' own pixels. Beside them stands
what a perfect mask scores that goes the same way, and what calling everything the thing scores. Measured once, seed 0,
ResNet-18 from random weights, BCE + Dice, bf16, one thread of an Intel Xeon, two minutes of its time:

       set           way  steps  perfect mask  model  guess
    cracks      squeezed     76         0.112  0.000  0.004
    cracks   tiles of 64     76         1.000  0.498  0.004
     cells      squeezed     82         0.272  0.000  0.008
     cells  tiles of 128     82         0.853  0.760  0.008
"""
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import finish, parse
from PIL import Image

from simseg.base.parameters import parameter_defaults
from simseg.evaluation import run_evaluation
from simseg.images.data import split_data
from simseg.images.sets import load_pairs
from simseg.images.tiles import cut_squares, join_squares
from simseg.unet import run_unet

SIDE = 64  # image_size
EPOCHS = 2  # on tiles
BATCH = 16
TILES = {"cracks": 64, "cells": 128}  # pixels of the original
SETTINGS = {"image_size": SIDE, "batch_size": BATCH, "learning_rate": 1e-3, "schedule": "cosine", "keep": "last",
            "loss": "bce_dice"}


def crack(rng) -> np.ndarray:  # (512, 512), bool
    "A crack from top to bottom, two pixels wide."
    left = (60 + np.cumsum(rng.integers(-1, 2, 512))).clip(0, 510)
    columns = np.arange(512)
    return (columns == left[:, None]) | (columns == left[:, None] + 1)


def cells(rng) -> np.ndarray:  # (900, 1200), bool
    "Sixty discs of 14 pixels."
    rows, columns = np.ogrid[:900, :1200]
    places = rng.integers((10, 10), (890, 1190), (60, 2))
    return np.any([(rows - y)**2 + (columns - x)**2 <= 49 for y, x in places], axis=0)


def draw(folder: Path, inside_of):
    "Eight photos of textures of their own, darker in what is to be found, with their masks."
    for part in ("images", "masks"): (folder / part).mkdir(parents=True)
    for i in range(8):
        rng = np.random.default_rng(i)
        inside = inside_of(rng)
        coarse = Image.fromarray(rng.integers(40, 216, (9, 9, 3)).astype(np.uint8))
        photo = np.array(coarse.resize(inside.shape[::-1], Image.Resampling.BICUBIC))
        photo[inside] //= 3
        Image.fromarray(photo).save(folder / "images" / f"{i}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masks" / f"{i}.png")


def describe(folder: Path, tile: int) -> str:
    "The description of a folder's set, cut or squeezed."
    file = folder / f"{tile}.yaml"
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nvalues: {thing: 255}\n"
    file.write_text(f"{text}tile: {tile}\n" if tile else text)
    return str(file)


def perfect(dataset: str, tile: int) -> float:
    "The IoU of true masks of the test pictures that are made as small as a network gets them, and large again."
    data = load_pairs(dataset, SIDE).by_picture()
    pixels = np.zeros(2)
    for row in split_data(data).test:
        _, mask = data.read_whole(data.names[row])
        truth = np.asarray(mask) == 1
        small = torch.from_numpy(cut_squares(mask, SIDE, tile) == 1)[:, None].float()
        found = join_squares(small, *mask.size, tile)[0].numpy() >= 0.5
        pixels += [(found & truth).sum(), (found | truth).sum()]
    return pixels[0] / pixels[1]


def compare(folder: Path, device: str) -> list[dict]:
    "A row a set and way."
    rows = []
    for name, inside_of in {"cracks": crack, "cells": cells}.items():
        draw(folder / name, inside_of)
        tested = describe(folder / name, TILES[name])
        data = load_pairs(tested, SIDE)
        steps = EPOCHS * -(-len(split_data(data).train) // BATCH)
        for tile in (0, TILES[name]):
            out = folder / f"{name}-{tile}"
            params = {**parameter_defaults("unet"), **SETTINGS, "dataset": describe(folder / name, tile)}
            run_unet({**params, "device": device, "epochs": EPOCHS if tile else steps, "out_dir": str(out)})
            asked = {"dataset": tested, "device": device, "model_dir": f"{out}/model", "out_dir": f"{out}/test"}
            metrics, _ = run_evaluation({**parameter_defaults("evaluation"), **asked})
            found = {"perfect mask": perfect(tested, tile), "model": metrics["iou"], "guess": metrics["iou_guess"]}
            way = f"tiles of {tile}" if tile else "squeezed"
            rows.append({"set": name, "way": way, "steps": steps, **{key: f"{iou:.3f}" for key, iou in found.items()}})
    return rows


if __name__ == "__main__":
    args = parse(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SIMSEG_CACHE"] = f"{temporary}/cache"
        rows = compare(Path(temporary), args.device)
    finish("tiles", rows, args)
