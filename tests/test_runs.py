"Stages as users run them, and what bad input is answered with."
import dataclasses
import json
import platform
import subprocess
import time

import nbformat
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from conftest import BIN, ROOT, small, with_our_commands
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from safetensors.torch import load_file

from simseg import unet
from simseg.base.files import read_json
from simseg.images.data import split_data, split_unlabelled
from simseg.images.sets import load_data, load_pairs, load_unlabelled
from simseg.evaluation import run_evaluation
from simseg.base.run import read_state
from simseg.simclr import run_simclr
from simseg.images.synthetic import make_synthetic
from simseg.unet import run_unet


# Notebooks as batch jobs

def test_transfer_is_checkable_from_outside(papermill, tmp_path):
    "SimCLR, then a U-Net with epochs=0: the encoder's tensors are in model/ bit for bit; with scratch none is."
    run_simclr(small("simclr", tmp_path / "simclr", epochs=1))
    made = {path.name for path in (tmp_path / "simclr").iterdir()}
    assert {"encoder.safetensors", "history.csv", "params.yaml", "metrics.json"} <= made
    run = papermill("3_unet", encoder=tmp_path / "simclr", epochs=0, max_images=64, out_dir=tmp_path / "transferred")
    assert run.returncode == 0, run.stderr[-2000:]
    run_unet(small("unet", tmp_path / "scratch", epochs=0))
    encoder = load_file(tmp_path / "simclr" / "encoder.safetensors")
    transferred = smp.from_pretrained(tmp_path / "transferred" / "model").encoder.state_dict()
    scratch = smp.from_pretrained(tmp_path / "scratch" / "model").encoder.state_dict()
    assert encoder.keys() == transferred.keys()
    for key, value in encoder.items():
        assert torch.equal(value, transferred[key]), key
        assert not torch.equal(value, scratch[key]), key


def test_params_yaml_repeats_a_run(papermill, tmp_path):
    "What a run was asked for and what it ran on are in one file, which papermill takes back."
    run_unet(small("unet", tmp_path / "unet", epochs=0))
    again = papermill("3_unet", "-f", tmp_path / "unet" / "params.yaml", out_dir=tmp_path / "again")
    assert again.returncode == 0, again.stderr[-2000:]
    first, second = [tmp_path / name / "model" / "model.safetensors" for name in ("unet", "again")]
    assert first.read_bytes() == second.read_bytes()


def test_a_mistyped_parameter_stops_the_notebook(papermill, tmp_path):
    "Papermill alone would run on with the default, and only warn."
    run = papermill("3_unet", epoch=3, out_dir=tmp_path / "out")
    assert run.returncode != 0
    assert not (tmp_path / "out").exists()
    assert "`epoch` is no parameter of 3_unet; did you mean `epochs`?" in run.stderr


def test_augmentations_notebook_draws_views(papermill, tmp_path):
    run = papermill("1_augmentations", dataset="synthetic_objects", out_dir=tmp_path / "views")
    assert run.returncode == 0, run.stderr[-2000:]
    assert Image.open(tmp_path / "views" / "views.png").width > 300


def made_up_notebook(path):
    "A stage of four lines, with a demonstration that fails."
    cells = [
        new_markdown_cell("# A stage"),
        new_code_cell("import math"),
        new_code_cell("#| export\ndef circumference(radius): return 2 * math.pi * radius"),
        new_code_cell("raise AssertionError('a demonstration')"),
        new_code_cell("radius = 1.0", metadata={"tags": ["parameters"]}),
        new_code_cell("print(round(circumference(radius), 2))"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def test_a_batch_job_leaves_demonstrations_out(tmp_path):
    "No demonstration's output, failure or seconds enters a study; plain papermill still executes everything."
    made_up_notebook(tmp_path / "stage.ipynb")
    plain = [BIN / "papermill", tmp_path / "stage.ipynb", tmp_path / "out.ipynb", "-p", "radius", "2"]
    run = subprocess.run([*plain, "--engine", "simseg"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    sources = [cell.source for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells]
    assert "12.57" in run.stdout
    assert "import math" in sources
    assert not any("demonstration" in source for source in sources)
    whole = subprocess.run(plain, capture_output=True, text=True)
    assert whole.returncode != 0
    assert "a demonstration" in whole.stderr


# Bad input

STAGES = {"simclr": run_simclr, "unet": run_unet, "evaluation": run_evaluation}


@pytest.mark.parametrize("stage, bad, message", [
    ("simclr", {"dataset": "catsvsdogs"}, "neither a folder .* nor one of synthetic"),
    ("simclr", {"dataset": "cifar10", "data_root": "/nowhere"}, "has no folder cifar10"),
    ("simclr", {"encoder_name": "resnet17"}, "choose one of resnet18"),
    ("simclr", {"optimizer": "lasr"}, "choose one of lars, adamw"),
    ("simclr", {"batch_size": 1000}, "only 58 images to train on"),
    ("simclr", {"temperature": 0.0}, "temperature=0.0 is out of range"),
    ("simclr", {"tracker": "tensorbord"}, "tracker='tensorbord' is unknown; choose one of none, .*tensorboard"),
    ("unet", {"dataset": "pets", "data_root": "/nowhere"}, "has no folder oxford-iiit-pet"),
    ("unet", {"dataset": "synthetic_objects"}, "has no masks"),
    ("unet", {"label_ratio": 0.9}, "label_ratio=0.9 is out of range; it must be above 0 and at most 0.8"),
    ("unet", {"label_ratio": 0.0}, "label_ratio=0.0 is out of range"),
    ("unet", {"encoder": "/nowhere"}, "no pretrained encoder at /nowhere"),
    ("unet", {"image_size": 50}, "multiple of 32"),
    ("unet", {"loss": "bec"}, "choose one of bce, dice, focal"),
    ("unet", {"border": "cat"}, "choose one of pet, background, ignore"),
    ("unet", {"split": "official"}, "comes without official test images"),
    ("unet", {"seed": -1}, "seed=-1 is out of range"),
    ("evaluation", {"model_dir": "/nowhere"}, "no model in /nowhere"),
    ("evaluation", {"threshold": 0.0}, "threshold=0.0 is out of range"),
])
def test_bad_values_are_named_in_one_sentence(stage, bad, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        STAGES[stage](small(stage, tmp_path / "out", **bad))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("**/metrics.json"))


def test_folders_of_ones_own(tmp_path):
    "Each thing that such a folder can lack is named, and no test image is pretrained on."
    with pytest.raises(FileNotFoundError, match="holds no images"): load_data(str(tmp_path), 32)
    for part in ("images", "masks"): (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        image = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        mask = rng.integers(0, 2, (40, 50), dtype=np.uint8) * 255
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02d}.jpg")
        if i: Image.fromarray(mask).save(tmp_path / "masks" / f"{i:02d}.png")
    with pytest.raises(FileNotFoundError, match="1 of 12 images have no mask, such as 00.jpg"):
        load_pairs(str(tmp_path), 32)
    Image.new("L", (40, 50)).save(tmp_path / "masks" / "00.png")
    with pytest.raises(ValueError, match="is 40×50 pixels, but its image is 50×40"): load_pairs(str(tmp_path), 32)
    Image.new("L", (50, 40)).save(tmp_path / "masks" / "00.png")
    data = load_pairs(str(tmp_path), 32)
    assert data.images.shape == (12, 3, 32, 32)
    assert set(np.unique(data.masks)) == {1, 2}
    with pytest.raises(ValueError, match="would pretrain on test images"):
        load_unlabelled(str(tmp_path / "images"), 32)
    part = split_unlabelled(load_unlabelled(str(tmp_path), 32))
    assert len(part.train) + len(part.val) == 10
    assert set(part.test) == set(split_data(data).test)


def test_masks_are_found_by_their_path(tmp_path):
    "Two folders may hold images of the same name."
    for folder, value in {"cats": 0, "dogs": 255}.items():
        for part in ("images", "masks"): (tmp_path / part / folder).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / folder / "1.png")
        Image.new("L", (32, 32), value).save(tmp_path / "masks" / folder / "1.png")
    data = load_pairs(str(tmp_path), 32)
    assert data.names == ["cats/1", "dogs/1"]
    assert (data.masks[0] == 2).all()
    assert (data.masks[1] == 1).all()


# What a run promises

def test_a_model_is_not_tested_on_its_training_images(tmp_path):
    run_unet(small("unet", tmp_path / "unet", epochs=0))
    params = small("evaluation", tmp_path / "test", model_dir=str(tmp_path / "unet" / "model"))
    with pytest.raises(ValueError, match="was trained with split_seed=0"): run_evaluation({**params, "split_seed": 1})
    with pytest.raises(ValueError, match="was trained with max_images=64"): run_evaluation({**params, "max_images": 65})
    metrics, _ = run_evaluation(params)
    assert metrics["n_images"] == 13


def test_a_collapse_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match="collapsed in epoch .* smaller learning_rate"):
        run_simclr(small("simclr", tmp_path, epochs=5, optimizer="adamw", learning_rate=1.0))
    assert read_state(tmp_path)["state"] == "failed"
    assert not (tmp_path / "encoder.safetensors").exists()


def test_pets_pretrain_without_their_test_images():
    "The encoder `pets` of a study, here with a set like it: masks, an official split, and a photo on both sides of it."
    data = make_synthetic(60, 32)
    official = np.arange(60) % 2 == 0
    data = dataclasses.replace(data, official_test=official, groups=np.r_[0, 0, np.arange(2, 60)])
    for split in ("random", "official"):
        part = split_unlabelled(data, split=split)
        test = split_data(data, 0.8, split).test
        used = np.r_[part.train, part.val]
        assert len(used) >= 29
        assert not set(data.groups[used]) & set(data.groups[test])


def test_a_run_records_what_it_ran_on(tmp_path):
    params = small("simclr", tmp_path, epochs=0)
    run_simclr(params)
    saved = yaml.safe_load((tmp_path / "params.yaml").read_text())
    ran_on = saved.pop("ran_on")
    assert saved == params
    assert {"commit", "dirty", "images", "machine", "torch", "python"} <= ran_on.keys()
    assert len(set(ran_on["seeds"].values())) == len(ran_on["seeds"]) == 4
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["linear_probe_accuracy"] > 0  # of the weights as they are drawn


def test_same_parameters_same_metrics(tmp_path):
    for name in ("first", "second"): run_unet(small("unet", tmp_path / name, epochs=1, augment=True))
    first, second = [(tmp_path / name / "metrics.json").read_text() for name in ("first", "second")]
    assert first == second
    assert json.loads(first)["n_train"] == 45


def test_the_averaged_weights_are_kept_and_the_encoder_has_its_rate(tmp_path):
    "An average that hardly forgets stays where the first step was, and an encoder of hardly any rate where it began."
    moved = {}  # run → by how much the validation loss moved
    weights = {}
    changes = {"start": {"epochs": 0}, "free": {}, "average": {"ema": 0.9999}, "slow": {"encoder_rate": 1e-6}}
    for name, changed in changes.items():
        history = run_unet(small("unet", tmp_path / name, **{"epochs": 2, **changed}))
        moved[name] = np.ptp([row["val_loss"] for row in history] or [0])
        weights[name] = load_file(tmp_path / name / "model" / "model.safetensors")

    def away(name, part):
        "How far a run's weights of a part went at most."
        keys = [key for key in weights["start"] if key.startswith(part) and key.endswith("weight")]
        return max((weights[name][key] - weights["start"][key]).abs().max().item() for key in keys)

    assert moved["average"] < 0.01 < moved["free"]
    assert away("average", "decoder") < away("free", "decoder") / 2
    assert away("slow", "encoder.conv1") < 1e-6
    assert min(away("slow", "decoder"), away("free", "encoder.conv1")) > 1e-3


# When a study is gone

def test_a_batch_run_ends_with_the_study_that_started_it(tmp_path):
    "The kernel too: nobody would be left to wait for it, and it would meet the next study in its folder."
    study = subprocess.Popen(["sleep", "600"])
    out = tmp_path / "out"
    command = [BIN / "papermill", "--engine", "simseg", "--kernel", "python3", "nbs/2_simclr.ipynb",
               tmp_path / "run.ipynb", "-p", "epochs", "500", "-p", "batch_size", "16", "-p", "max_images", "64",
               "-p", "out_dir", out]
    started_by = with_our_commands(SIMSEG_STUDY=f"{platform.node()}:{study.pid}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=ROOT, env=started_by, text=True, **pipes)
    assert any(line.startswith("epoch 2/") for line in run.stdout)
    study.kill()
    study.wait()
    assert run.wait() == 1
    while read_state(out)["state"] == "running": time.sleep(0.1)  # until the kernel has seen that its parent is gone
    assert read_state(out)["state"] == "cut off"


def test_patience_ends_a_run_that_no_longer_gains(tmp_path, monkeypatch):
    """After so many epochs in a row without a lower validation loss; the best epoch is kept, and the run is done.

    In sittings it is the same run: the first ends while patience counts, the second with the very epoch after which it
    is at its end, and the third has nothing to train.
    """
    params = {"patience": 2, "epochs": 30, "max_images": 32}
    losses = [3.0, 4.0, 2.0, 5.0, 6.0]  # one epoch that is worse, a better one, and two that are worse
    true_summary = unet.summarise
    epochs_after = {"once": {0: 5}, "sittings": {4: 4, 1: 5, 0: 5}}  # folder → stop_after → epochs in the end
    for folder, sittings in epochs_after.items():
        left = iter(losses)
        monkeypatch.setattr(unet, "summarise", lambda counts: {**true_summary(counts), "bce_loss": next(left)})
        for stop_after, epochs in sittings.items():
            history = run_unet(small("unet", tmp_path / folder, stop_after=stop_after, **params))
            assert [row["val_loss"] for row in history] == losses[:epochs]
            assert read_state(tmp_path / folder)["state"] == ("stopped" if stop_after else "done")
        assert read_json(tmp_path / folder / "metrics.json")["kept_epoch"] == 3
        assert len(run_unet(small("unet", tmp_path / folder, **params))) == 5  # and it is not gone on with
    for name in ("metrics.json", "model/model.safetensors"):
        assert (tmp_path / "sittings" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
