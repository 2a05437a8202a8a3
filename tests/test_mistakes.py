"One test for each mistake of the published study's code; each fails on the mistake."
import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchmetrics.classification import BinaryJaccardIndex

from simseg.augmentations import normalise, random_views, two_views
from simseg.core import make_accelerator, parameter_defaults
from simseg.data import draw_synthetic, load_data, load_pairs, split_data
from simseg.evaluation import evaluate, load_model
from simseg.simclr import SimCLR, make_optimizer, nt_xent, save_encoder
from simseg.unet import count_batch, make_unet, run_unet, summarise


def test_1_an_encoder_arrives_whole_or_the_run_stops(tmp_path):
    "Weights saved as `conv1…` were loaded into `encoder.conv1…` with strict=False: nothing arrived."
    encoder = SimCLR("resnet18").encoder
    encoder(torch.randn(8, 3, 32, 32))
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    arrived = make_unet(str(tmp_path), "resnet18").encoder.state_dict()
    assert all(torch.equal(value, arrived[key]) for key, value in encoder.state_dict().items())
    state = load_file(tmp_path / "encoder.safetensors")
    for wrong in ({f"encoder.{k}": v for k, v in state.items()}, {k: v for k, v in state.items() if k != "bn1.running_var"}):
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ValueError, match="does not fit this encoder"): make_unet(str(tmp_path / "wrong.safetensors"), "resnet18")


def test_2_nt_xent_does_not_see_lengths():
    "NT-Xent was computed on vectors of any length: no L2 normalisation."
    first, second = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(16, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.testing.assert_close(nt_xent(first * lengths, second * 30), nt_xent(first, second))


def test_3_both_views_are_views_of_the_image(tmp_path):
    "On CIFAR-10 the two 'views' were the image and its label."
    pictures = draw_synthetic(8, 32).images.transpose(0, 2, 3, 1)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    rows = datasets.Dataset.from_dict({"img": [datasets.Image().encode_example(p) for p in pictures], "label": list(range(8))}, features=features)
    (tmp_path / "cifar10").mkdir()
    rows.to_parquet(tmp_path / "cifar10" / "train-00000-of-00001.parquet")
    data = load_data("cifar10", 32, str(tmp_path))
    assert np.array_equal(data.images.transpose(0, 2, 3, 1), pictures) and data.labels.tolist() == list(range(8))
    images = torch.from_numpy(np.array(data.images))
    both = two_views(images, torch.Generator().manual_seed(0), jitter_strength=0.0, blur=False, min_scale=1.0).chunk(2)
    for view in both:  # with no jitter or blur and the largest crops, a view's colours are its image's, but for one in five that is grey
        near = [(view[i].mean((1, 2)) - normalise(images)[i].mean((1, 2))).abs().max() < 0.2 for i in range(8)]
        assert sum(near) >= 5 and view.shape == images.shape
    assert not torch.equal(*both)


def test_4_lars_leaves_out_batch_norm_and_biases():
    "LARS was told to leave out batch norm and bias by TensorFlow's names, and never did."
    model = SimCLR("resnet18")
    excluded = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()} | {id(p) for n, p in model.named_parameters() if n.endswith("bias")}
    optimizer = make_optimizer(model, "lars", 0.3, 1e-6)
    plain = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert plain == excluded and not any(group["always_adapt"] for group in optimizer.param_groups)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters(): p.grad = torch.full_like(p, 2.0)
    optimizer.step()
    for p, old in zip(model.parameters(), before):
        if id(p) in excluded: torch.testing.assert_close(p.data, old - 0.6)
        else: assert (p - old).abs().max() < 0.1  # adapted: a step of 0.0003 of the weights' length


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_5_iou_is_that_of_all_pixels_at_probability_one_half(batch_size):
    "IoU was computed on logits cut to integers (logit 1, not probability 0.5), and averaged over batches."
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(64, 1, 12, 12, generator=generator) < torch.rand(64, 1, 1, 1, generator=generator)).long()
    logits = torch.randn(64, 1, 12, 12, generator=generator) + targets  # many between 0 and 1
    ours = summarise(pd.concat([count_batch(*part) for part in zip(logits.split(batch_size), targets.split(batch_size))]))
    assert ours["iou"] == pytest.approx(BinaryJaccardIndex()(logits.sigmoid(), targets).item(), rel=1e-6)


@pytest.mark.parametrize("loss, border", [("bce", "pet"), ("dice", "background"), ("focal", "pet"), ("bce", "ignore")])
def test_6_what_chose_the_model_is_what_is_reported(loss, border, tmp_path):
    "The model chosen and the figures reported came from code paths that differ."
    params = {**parameter_defaults("03_unet"), "loss": loss, "border": border, "max_images": 64, "epochs": 2, "precision": "fp32", "device": "cpu", "out_dir": str(tmp_path)}
    run_unet(params)
    chosen = json.loads((tmp_path / "metrics.json").read_text())
    data = load_pairs("synthetic", 32, max_images=64)
    model, _ = load_model(tmp_path / "model")
    reported = summarise(evaluate(model, data, split_data(data, 0.8).val, make_accelerator("cpu", "fp32"), border))
    assert reported[f"{loss}_loss"] == pytest.approx(chosen["val_loss"], rel=1e-4)
    assert reported["iou"] == pytest.approx(chosen["val_iou"], rel=1e-4)


def test_views_of_a_batch_differ_image_by_image():
    "torchvision's v2 transforms draw one set of parameters for a whole batch."
    image = torch.from_numpy(draw_synthetic(1, 32).images).expand(16, -1, -1, -1)
    assert len(torch.unique(random_views(image, torch.Generator().manual_seed(0)).flatten(1), dim=0)) == 16
