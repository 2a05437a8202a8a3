"""One test for each mistake of the published study's code, and for mistakes that this library could make unnoticed.

Each fails on the mistake.
"""
import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import evaluation_params, small, unet_params
from safetensors.torch import load_file, save_file
from torch import nn
from torchmetrics.classification import BinaryJaccardIndex

from simseg import evaluation, unet
from simseg.evidence import figures as study_figures
from simseg.augmentations import normalise, random_views, two_views
from simseg.base.parameters import make_accelerator
from simseg.images.data import split_data
from simseg.images.sets import load_data, load_pairs
from simseg.evaluation import find_objects, run_evaluation, show_overlays
from simseg.images.drawing import overlay_batch
from simseg.images.masks import make_targets
from simseg.learning.metrics import count_batch, summarise
from simseg.simclr import SimCLR, make_optimizer, nt_xent, run_simclr, validate
from simseg.study.grid import study_data
from simseg.study.files import check_study
from simseg.images.synthetic import make_synthetic
from simseg.learning.encoders import save_encoder
from simseg.unet import load_model, make_unet, run_unet


def read_json(path): return json.loads(path.read_text())


# The six of the published study

def test_1_an_encoder_arrives_whole_or_the_run_stops(tmp_path):
    "Weights saved as `conv1…` were loaded into `encoder.conv1…` with strict=False: nothing arrived."
    encoder = SimCLR("resnet18").encoder
    encoder(torch.randn(8, 3, 32, 32))
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    arrived = make_unet(str(tmp_path), "resnet18").encoder.state_dict()
    assert all(torch.equal(value, arrived[key]) for key, value in encoder.state_dict().items())
    state = load_file(tmp_path / "encoder.safetensors")
    renamed = {key.replace("layer", "block"): value for key, value in state.items()}
    incomplete = {key: value for key, value in state.items() if key != "bn1.running_var"}
    for wrong in (renamed, incomplete):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ValueError, match="does not fit this encoder"):
            make_unet(str(tmp_path / "wrong.safetensors"), "resnet18")


def test_2_nt_xent_does_not_see_lengths():
    "NT-Xent was computed on vectors of any length: no L2 normalisation."
    first, second = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(16, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.testing.assert_close(nt_xent(first * lengths, second * 30), nt_xent(first, second))


def write_cifar10(folder, pictures):
    "Pictures (N, S, S, 3) as the hub's CIFAR-10 has them, each with a label of its own."
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    columns = {"img": [datasets.Image().encode_example(p) for p in pictures], "label": list(range(len(pictures)))}
    folder.mkdir()
    rows = datasets.Dataset.from_dict(columns, features=features)
    rows.to_parquet(folder / "train-00000-of-00001.parquet")


def test_3_both_views_are_views_of_the_image(tmp_path):
    "On CIFAR-10 the two 'views' were the image and its label."
    pictures = make_synthetic(8, 32).images.transpose(0, 2, 3, 1)
    write_cifar10(tmp_path / "cifar10", pictures)
    data = load_data("cifar10", 32, str(tmp_path))
    assert np.array_equal(data.images.transpose(0, 2, 3, 1), pictures)
    assert data.labels.tolist() == list(range(8))
    images = torch.from_numpy(np.array(data.images))
    generator = torch.Generator().manual_seed(0)
    first, second = two_views(images, generator, jitter_strength=0.0, blur=False, min_scale=1.0).chunk(2)
    colours = normalise(images).mean((2, 3))
    for view in (first, second):
        # without jitter and blur, and with the largest crops, a view's colours are its image's, but for those made grey
        near = (view.mean((2, 3)) - colours).abs().amax(1) < 0.2
        assert near.sum() >= 5
        assert view.shape == images.shape
    assert not torch.equal(first, second)


def test_4_lars_leaves_out_batch_norm_and_biases():
    "LARS was told to leave out batch norm and bias by TensorFlow's names, and never did."
    model = SimCLR("resnet18")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    left_out = {id(p) for module in norms for p in module.parameters()}
    left_out |= {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    optimizer = make_optimizer(model, "lars", 0.3, 1e-6)
    plain = [group for group in optimizer.param_groups if group["weight_decay"] == 0]
    assert {id(p) for group in plain for p in group["params"]} == left_out
    assert not any(group["always_adapt"] for group in optimizer.param_groups)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters(): p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    for p, old in zip(model.parameters(), before):
        if id(p) in left_out: torch.testing.assert_close(p.data, old - 0.6)
        else: assert (p - old).abs().max() < 0.1  # adapted: a step of 0.0003 of the weights' length


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_5_iou_is_that_of_all_pixels_at_probability_one_half(batch_size):
    "IoU was computed on logits cut to integers (logit 1, not probability 0.5), and averaged over batches."
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(64, 1, 1, 1, generator=generator)
    targets = (torch.rand(64, 1, 12, 12, generator=generator) < shares).long()
    logits = torch.randn(64, 1, 12, 12, generator=generator) + targets  # many between 0 and 1
    parts = zip(logits.split(batch_size), targets.split(batch_size))
    ours = summarise(pd.concat([count_batch(*part) for part in parts]))
    assert ours["iou"] == pytest.approx(BinaryJaccardIndex()(logits.sigmoid(), targets).item(), rel=1e-6)


def validated(folder, border="pet") -> dict:
    "Metrics of a run's model/ on the run's validation images, counted as the evaluation counts."
    data = load_pairs("synthetic", 32, max_images=64)
    model, _ = load_model(folder / "model")
    tensors = [torch.from_numpy(array) for array in (data.images, data.masks, split_data(data, 0.8).val)]
    return summarise(unet.count_images(model, *tensors, make_accelerator("cpu", "fp32"), border))


@pytest.mark.parametrize("loss, border", [("bce", "pet"), ("dice", "background"), ("focal", "pet"), ("bce", "ignore")])
def test_6_what_chose_the_model_is_what_is_reported(loss, border, tmp_path):
    "The model chosen and the figures reported came from code paths that differ."
    run_unet(small("unet", tmp_path, loss=loss, border=border, epochs=2, precision="fp32"))
    chosen = read_json(tmp_path / "metrics.json")
    reported = validated(tmp_path, border)
    assert reported[f"{loss}_loss"] == pytest.approx(chosen["val_loss"], rel=1e-4)
    assert reported["iou"] == pytest.approx(chosen["val_iou"], rel=1e-4)


# And others

def test_views_of_a_batch_differ_image_by_image():
    "torchvision's v2 transforms draw one set of parameters for a whole batch."
    image = torch.from_numpy(make_synthetic(1, 32).images).expand(16, -1, -1, -1)
    views = random_views(image, torch.Generator().manual_seed(0))
    assert len(torch.unique(views.flatten(1), dim=0)) == 16


@pytest.mark.parametrize("stop_after", [0, 2], ids=["at once", "in two sittings"])
def test_the_epoch_kept_is_the_best_and_not_the_last(stop_after, tmp_path, monkeypatch):
    "The last epoch spoils the model, so a run shows it that keeps its last weights, or forgets the best when stopped."
    true_count = unet.count_images
    calls = []

    def count_images(model, *arguments):
        calls.append(model)
        if len(calls) == 3: model.segmentation_head[0].bias.data += 20.0
        return true_count(model, *arguments)

    monkeypatch.setattr(unet, "count_images", count_images)
    params = small("unet", tmp_path, epochs=3, stop_after=stop_after, precision="fp32")
    for _ in range(2): history = run_unet(params)
    kept = read_json(tmp_path / "metrics.json")
    assert kept["kept_epoch"] < 3
    assert kept["val_loss"] < history[2]["val_loss"] / 2
    assert validated(tmp_path)["bce_loss"] == pytest.approx(kept["val_loss"], rel=1e-4)


@pytest.mark.parametrize("place", ["library", pytest.param("notebook", marks=pytest.mark.slow)])
def test_a_frozen_encoder_stays_as_it_was_bit_for_bit(place, papermill, tmp_path):
    """Left in training mode, its batch-norm statistics would move though no weight does.

    A batch job runs what its notebook defines; everything else what the library holds.
    """
    run_simclr(small("simclr", tmp_path / "simclr", epochs=1))
    changed = {"encoder": str(tmp_path / "simclr"), "freeze_encoder": True, "epochs": 1}
    params = small("unet", tmp_path / "unet", **changed)
    if place == "library": run_unet(params)
    else:
        run = papermill("3_unet", **{name: value for name, value in params.items() if value != ""})
        assert run.returncode == 0, run.stderr[-2000:]
    before = load_file(tmp_path / "simclr" / "encoder.safetensors")
    after = load_file(tmp_path / "unet" / "model" / "model.safetensors")
    arrived = {key.removeprefix("encoder."): value for key, value in after.items() if key.startswith("encoder.")}
    assert arrived.keys() == before.keys()
    for key, value in before.items(): assert torch.equal(value, arrived[key]), key


class MeanColour(nn.Module):
    "An encoder to check others by: it sees nothing but an image's mean colour."

    loss = SimCLR.loss

    def forward(self, x): return x.mean((2, 3))


def test_validation_compares_the_two_views_of_one_image():
    "Of partners that are shuffled, loss and alignment would tell of other images."
    colours = torch.randint(0, 256, (16, 3, 1, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = colours.expand(-1, -1, 32, 32).contiguous()  # of one colour each, which no crop changes
    generator = torch.Generator().manual_seed(0)
    unchanged = {"jitter_strength": 0.0, "blur": False, "grey_probability": 0.0}
    params = {"batch_size": 8, "temperature": 0.1}
    found = validate(MeanColour(), images, torch.arange(16), params, generator, **unchanged)
    z = normalise(images).mean((2, 3))
    expected = torch.stack([nt_xent(part, part, 0.1) for part in z.split(8)]).mean().item()
    assert found["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert found["alignment"] < 1e-6


# A study that does not cut at one half: what is shown has to be what was counted.

@pytest.fixture
def strict_study(workplace):
    "A study of one cell, run, whose evaluation cuts at 0.7."
    study = check_study({
        "name": "strict", "device": "cpu", "precision": "fp32", "image_size": 32, "label_ratios": [0.5], "seeds": [0],
        "encoders": {"scratch": None}, "unet": {"dataset": "synthetic", "max_images": 64, "epochs": 1},
        "evaluation": {"threshold": 0.7},
    })
    cell = ("scratch", 0.5, 0)
    run_unet(unet_params(study, *cell))
    _, counts = run_evaluation(evaluation_params(study, *cell))
    return study, counts


@pytest.fixture
def shown(monkeypatch):
    "The pictures that are handed to `show_images`, figure by figure."
    figures = []

    def show_images(pictures, *rest, **how):
        figures.append(np.asarray(pictures))
        return true_show_images(pictures, *rest, **how)

    true_show_images = study_figures.show_images
    for module in (study_figures, evaluation): monkeypatch.setattr(module, "show_images", show_images)
    return figures


def test_what_is_shown_is_cut_where_the_study_cuts(shown, strict_study):
    study, counts = strict_study
    assert len(shown) == 2  # overlays.png and worst.png
    data, part = study_data(study)
    params = evaluation_params(study, "scratch", 0.5, 0)
    accelerator = make_accelerator("cpu", "fp32")
    model, settings = load_model(params["model_dir"])
    model = model.to(memory_format=torch.channels_last)
    found = find_objects(model, settings, data, part.test, accelerator, 0.7)
    at_one_half = find_objects(model, settings, data, part.test, accelerator, 0.5)
    assert (found.sum((1, 2)) < at_one_half.sum((1, 2))).any(), "the threshold has no say here, so nothing is tested"
    assert found.sum((1, 2)).tolist() == (counts["tp"] + counts["fp"]).tolist()
    targets = make_targets(torch.from_numpy(data.masks[part.test]))[:, 0].numpy()
    expected = overlay_batch(data.images[part.test], found, targets)
    worst = counts["iou"].argsort().to_numpy()[:8]
    assert np.array_equal(shown[1][8:], expected[worst])
    study_figures.show_predictions(study, 0.5, len(part.test))
    show_overlays(model, settings, data, counts["iou"], part.test, accelerator, threshold=0.7)
    for pictures in shown[2:]: assert np.array_equal(pictures[len(part.test):], expected)
    assert len(shown) == 4


def test_a_threshold_that_is_no_probability_is_refused_before_anything_runs():
    study = {"name": "wrong", "label_ratios": [0.5], "seeds": [0], "encoders": {"scratch": None}}
    sentence = "threshold=1.5 is out of range; it must be above 0 and at most 1"
    with pytest.raises(ValueError, match=sentence): check_study({**study, "evaluation": {"threshold": 1.5}})
