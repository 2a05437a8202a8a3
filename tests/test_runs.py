"Runs as users start them, and what bad input is answered with."
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from simseg.core import parameter_defaults
from simseg.data import draw_synthetic, load_data, load_pairs, load_unlabelled, split_data, split_unlabelled
from simseg.evaluation import run_evaluation
from simseg.simclr import run_simclr
from simseg.unet import run_unet


def test_transfer_is_checkable_from_outside(papermill, tmp_path):
    "SimCLR, then a U-Net with epochs=0: the encoder's tensors are in model/ bit for bit; with scratch none is."
    shared = {"max_images": 64, "image_size": 32}
    run = papermill("02_simclr", epochs=1, batch_size=16, out_dir=tmp_path / "simclr", **shared)
    assert run.returncode == 0, run.stderr[-2000:]
    assert {"encoder.safetensors", "history.csv", "params.yaml", "metrics.json"} <= {p.name for p in (tmp_path / "simclr").iterdir()}
    for source in (tmp_path / "simclr", "scratch"):
        run = papermill("03_unet", encoder=source, epochs=0, out_dir=tmp_path / f"unet_{source == 'scratch'}", **shared)
        assert run.returncode == 0, run.stderr[-2000:]
    encoder = load_file(tmp_path / "simclr" / "encoder.safetensors")
    transferred, scratch = (smp.from_pretrained(tmp_path / f"unet_{s}" / "model").encoder.state_dict() for s in (False, True))
    assert encoder.keys() == transferred.keys()
    assert all(torch.equal(encoder[key], transferred[key]) for key in encoder)
    assert not any(torch.equal(encoder[key], scratch[key]) for key in encoder)
    again = papermill("03_unet", "-f", tmp_path / "unet_True" / "params.yaml")  # a run's params.yaml repeats it
    assert again.returncode == 0, again.stderr[-2000:]


def test_a_mistyped_parameter_stops_the_notebook(papermill, tmp_path):
    "Papermill alone would run on with the default, and only warn."
    run = papermill("03_unet", epoch=3, out_dir=tmp_path / "out")
    assert run.returncode != 0 and not (tmp_path / "out").exists()
    assert "`epoch` is no parameter of 03_unet; did you mean `epochs`?" in run.stderr


STAGES = {"02_simclr": run_simclr, "03_unet": run_unet, "04_evaluation": run_evaluation}


@pytest.mark.parametrize("notebook, bad, message", [
    ("02_simclr", {"dataset": "catsvsdogs"}, "neither a folder .* nor one of synthetic"),
    ("02_simclr", {"dataset": "cifar10", "data_root": "/nowhere"}, "has no folder cifar10"),
    ("02_simclr", {"encoder_name": "resnet17"}, "choose one of resnet18"),
    ("02_simclr", {"optimizer": "lasr"}, "choose one of lars, adamw"),
    ("02_simclr", {"batch_size": 1000}, "only 461 images to train on"),
    ("02_simclr", {"temperature": 0.0}, "temperature=0.0 is out of range"),
    ("03_unet", {"dataset": "pets", "data_root": "/nowhere"}, "has no folder oxford-iiit-pet"),
    ("03_unet", {"dataset": "synthetic_objects"}, "has no masks"),
    ("03_unet", {"label_ratio": 0.9}, "label_ratio=0.9 is out of range; it must be above 0 and at most 0.8"),
    ("03_unet", {"label_ratio": 0.0}, "label_ratio=0.0 is out of range"),
    ("03_unet", {"encoder": "/nowhere"}, "no pretrained encoder at /nowhere"),
    ("03_unet", {"image_size": 50}, "multiple of 32"),
    ("03_unet", {"loss": "bec"}, "choose one of bce, dice, focal"),
    ("03_unet", {"border": "cat"}, "choose one of pet, background, ignore"),
    ("03_unet", {"split": "official"}, "comes without an official split"),
    ("03_unet", {"seed": -1}, "seed=-1 is out of range"),
    ("04_evaluation", {"model_dir": "/nowhere"}, "no model in /nowhere"),
    ("04_evaluation", {"threshold": 0.0}, "threshold=0.0 is out of range"),
])
def test_bad_values_are_named_in_one_sentence(notebook, bad, message, tmp_path):
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        STAGES[notebook]({**parameter_defaults(notebook), "device": "cpu", "out_dir": str(out), **bad})
    assert "\n" not in str(caught.value) and not list(out.glob("**/metrics.json"))


def test_folders_of_ones_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no images"): load_data(str(tmp_path), 32)
    for part in ("images", "masks"): (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i:02d}.jpg")
        if i: Image.fromarray(rng.integers(0, 2, (40, 50), dtype=np.uint8) * 255).save(tmp_path / "masks" / f"{i:02d}.png")
    with pytest.raises(FileNotFoundError, match="no mask for 00 "): load_pairs(str(tmp_path), 32)
    Image.new("L", (40, 50)).save(tmp_path / "masks" / "00.png")
    with pytest.raises(ValueError, match="is 40×50 pixels, but its image is 50×40"): load_pairs(str(tmp_path), 32)
    Image.new("L", (50, 40)).save(tmp_path / "masks" / "00.png")
    data = load_pairs(str(tmp_path), 32)
    assert data.images.shape == (12, 3, 32, 32) and set(np.unique(data.masks)) == {1, 2}
    with pytest.raises(ValueError, match="would pretrain on test images"): load_unlabelled(str(tmp_path / "images"), 32)
    part = split_unlabelled(load_unlabelled(str(tmp_path), 32))
    assert len(part.train) + len(part.val) == 10 and set(part.test) == set(split_data(data).test)


def test_masks_are_found_by_their_path(tmp_path):
    "Two folders may hold images of the same name."
    for i, folder in enumerate(("cats", "dogs")):
        for part in ("images", "masks"): (tmp_path / part / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / folder / "1.png")
        Image.new("L", (32, 32), 255 * i).save(tmp_path / "masks" / folder / "1.png")
    data = load_pairs(str(tmp_path), 32)
    assert data.names == ["cats/1", "dogs/1"] and (data.masks[0] == 2).all() and (data.masks[1] == 1).all()


def test_a_model_is_not_tested_on_its_training_images(tmp_path):
    params = {**parameter_defaults("03_unet"), "max_images": 64, "epochs": 0, "device": "cpu", "out_dir": str(tmp_path / "unet")}
    run_unet(params)
    shared = {**parameter_defaults("04_evaluation"), "device": "cpu", "model_dir": str(tmp_path / "unet" / "model"), "out_dir": str(tmp_path / "test")}
    with pytest.raises(ValueError, match="was trained with split_seed=0"): run_evaluation({**shared, "max_images": 64, "split_seed": 1})
    with pytest.raises(ValueError, match="was trained with max_images=64"): run_evaluation({**shared, "max_images": 65})
    metrics, _ = run_evaluation({**shared, "max_images": 64})
    assert metrics["n_images"] == 13


def test_a_collapse_stops_the_run(tmp_path):
    params = {**parameter_defaults("02_simclr"), "max_images": 64, "batch_size": 16, "epochs": 5, "optimizer": "adamw", "learning_rate": 1.0, "device": "cpu", "out_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="collapsed in epoch .* smaller learning_rate"): run_simclr(params)
    assert len(pd.read_csv(tmp_path / "history.csv")) < 5 and not (tmp_path / "encoder.safetensors").exists()


def test_pets_pretrain_without_their_test_images(tmp_path):
    "The encoder `pets` of a study, here with a set laid out like it: masks, an official split, and a photo that stands on both sides."
    data = draw_synthetic(60, 32)
    data = dataclasses.replace(data, official_test=np.arange(60) % 2 == 0, groups=np.r_[0, 0, np.arange(2, 60)])
    for split in ("random", "official"):
        part, test = split_unlabelled(data, split=split), split_data(data, 0.8, split).test
        used = np.r_[part.train, part.val]
        assert len(used) >= 29 and not set(data.groups[used]) & set(data.groups[test])


def test_a_run_records_what_it_ran_on(tmp_path):
    params = {**parameter_defaults("02_simclr"), "max_images": 64, "batch_size": 16, "epochs": 0, "device": "cpu", "out_dir": str(tmp_path)}
    run_simclr(params)
    saved = yaml.safe_load((tmp_path / "params.yaml").read_text())
    ran_on = saved.pop("ran_on")
    assert saved == params and {"commit", "machine", "torch", "python"} <= ran_on.keys()
    assert len(set(ran_on["seeds"].values())) == len(ran_on["seeds"]) == 4
    assert json.loads((tmp_path / "metrics.json").read_text())["linear_probe_accuracy"] > 0  # of the weights as they are drawn


def test_same_parameters_same_metrics(tmp_path):
    params = {**parameter_defaults("03_unet"), "max_images": 64, "epochs": 1, "augment": True, "device": "cpu"}
    for name in ("first", "second"): run_unet({**params, "out_dir": str(tmp_path / name)})
    first, second = ((tmp_path / name / "metrics.json").read_text() for name in ("first", "second"))
    assert first == second and json.loads(first)["n_train"] == 45


def test_the_averaged_weights_are_validated_and_kept_and_the_encoder_has_its_rate(tmp_path):
    "An average that forgets next to nothing stays where the first step was, and an encoder with next to no rate where it began."
    params = {**parameter_defaults("03_unet"), "max_images": 64, "batch_size": 16, "epochs": 3, "device": "cpu"}

    def run(name, **changed):
        history = run_unet({**params, **changed, "out_dir": str(tmp_path / name)})
        return load_file(tmp_path / name / "model" / "model.safetensors"), np.ptp([row["val_loss"] for row in history] or [0])

    (start, _), (free, moved), (kept, still), (slow, _) = run("start", epochs=0), run("free"), run("average", ema=0.9999), run("rate", encoder_rate=1e-6)
    away = lambda model, part: max((model[key] - start[key]).abs().max().item() for key in start if key.startswith(part) and key.endswith("weight"))
    assert still < 0.01 < moved and away(kept, "decoder") < away(free, "decoder") / 2
    assert away(slow, "encoder.conv1") < 1e-6 < 1e-3 < min(away(slow, "decoder"), away(free, "encoder.conv1"))


def test_augmentations_notebook_draws_views(papermill, tmp_path):
    run = papermill("01_augmentations", dataset="synthetic_objects", out_dir=tmp_path / "views")
    assert run.returncode == 0, run.stderr[-2000:]
    assert Image.open(tmp_path / "views" / "views.png").width > 300
