"Losses, LARS and metrics against independent references, on random inputs: values, and gradients where there are any."
from functools import partial

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from lightly.loss import NTXentLoss
from torch import nn
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryJaccardIndex, BinaryPrecision, BinaryRecall
from torchmetrics.functional.classification import binary_jaccard_index

from simseg.simclr import make_optimizer, make_schedule, nt_xent
from simseg.unet import IGNORED, LOSSES, count_batch, make_loss, summarise


def value_and_gradients(function, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def assert_near(found, expected, tolerance=1e-5):
    "Each value or gradient to `tolerance` of the largest in it."
    for a, b in zip(found, expected, strict=True): torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * b.abs().max().item())


def equation_1(first, second, temperature):
    "NT-Xent as the paper writes it, view by view."
    z, n = torch.cat([first, second]), len(first)
    similarity = torch.exp(z @ z.T / (z.norm(dim=1) * z.norm(dim=1, keepdim=True)) / temperature)
    others = ~torch.eye(2 * n, dtype=torch.bool)
    return sum(-torch.log(similarity[i, (i + n) % (2 * n)] / similarity[i, others[i]].sum()) for i in range(2 * n)) / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 7, 64])
def test_nt_xent_is_lightlys_and_the_papers(n, temperature):
    generator = torch.Generator().manual_seed(n)
    views = torch.randn(2, n, 16, generator=generator) * 5 * torch.rand(2, n, 1, generator=generator)
    found = value_and_gradients(lambda a, b: nt_xent(a, b, temperature), *views)
    assert_near(found, value_and_gradients(NTXentLoss(temperature), *views.double()))
    assert_near(found, value_and_gradients(lambda a, b: equation_1(a, b, temperature), *views.double()))
    rounded = views.bfloat16()  # what autocast hands over is worked on in float32
    torch.testing.assert_close(nt_xent(*rounded, temperature), nt_xent(*rounded.float(), temperature), rtol=0, atol=0)


# timm's LARS is You et al.'s. The paper's code (lars_optimizer.py of google-research/simclr) differs in two things: it takes
# the norm of gradient and decay together, not of each, and multiplies the rate into the velocity, so that a change of rate
# acts with a delay. At a constant rate and the paper's weight decay of 1e-6 both do the same.
@pytest.mark.parametrize("reference, weight_decay, warmup", [("timm", 1e-6, 0), ("timm", 1e-2, 5), ("paper's code", 1e-6, 0)])
def test_lars_is_the_plain_one_for_20_steps(reference, weight_decay, warmup):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).double()
    nn.init.zeros_(model[3].weight)  # of no length to adapt to: the first step is a plain one
    left_out = {"0.bias", "1.weight", "1.bias", "3.bias"}
    optimizer, rate = make_optimizer(model, "lars", 0.3, weight_decay), 0.3
    schedule = make_schedule(optimizer, 20, warmup) if warmup else None
    weights, velocity = ({name: f(p.detach()) for name, p in model.named_parameters()} for f in (torch.clone, torch.zeros_like))
    for step in range(20):
        if schedule: rate = 0.3 * (step + 1) / 5 if step < 5 else 0.15 * (1 + np.cos(np.pi * (step - 5) / 15))
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p) * 10 ** (2 * torch.rand(()) - 2)
            w, gradient, trust = weights[name], p.grad, 1.0
            if name not in left_out:
                gradient = p.grad + weight_decay * w
                together = p.grad.norm() + weight_decay * w.norm() if reference == "timm" else gradient.norm()
                if w.norm() > 0: trust = 0.001 * w.norm() / together
            if reference == "timm":
                velocity[name] = 0.9 * velocity[name] + trust * gradient
                weights[name] = w - rate * velocity[name]
            else:
                velocity[name] = 0.9 * velocity[name] + rate * trust * gradient
                weights[name] = w - velocity[name]
        optimizer.step()
        if schedule: schedule.step()
        tolerance = 1e-9 if reference == "timm" else 1e-7
        for name, p in model.named_parameters(): torch.testing.assert_close(p.data, weights[name], rtol=1e-6, atol=tolerance, msg=lambda m: f"{name}, step {step}: {m}")


def predictions(ignored, images=64):
    "Logits of which many lie between 0 and 1, and targets: some images without foreground, in some of which none is found."
    generator = torch.Generator().manual_seed(0)
    uniform = lambda *shape: torch.rand(images, 1, *shape, generator=generator)
    targets = (uniform(12, 12) < uniform(1, 1)).long()
    targets[:6] = 0
    logits = 1.5 * torch.randn(images, 1, 12, 12, generator=generator) + targets
    logits[:3] = -2.0
    return logits, torch.where(uniform(12, 12) < ignored, IGNORED, targets)


def counted_in_batches(logits, targets, size, threshold=0.5):
    return summarise(pd.concat(count_batch(*part, threshold) for part in zip(logits.split(size), targets.split(size))))


METRICS = {"iou": BinaryJaccardIndex, "f1": BinaryF1Score, "precision": BinaryPrecision, "recall": BinaryRecall, "accuracy": BinaryAccuracy}


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_metrics_are_those_of_torchmetrics_and_smp_for_any_batch_size(ignored, threshold):
    logits, targets = predictions(ignored)
    ours, probability = counted_in_batches(logits, targets, 64, threshold), logits.sigmoid()
    per_image = [binary_jaccard_index(*pair, threshold, IGNORED, zero_division=1.0) for pair in zip(probability, targets)]
    assert ours["iou_per_image"] == pytest.approx(torch.stack(per_image).mean().item(), rel=1e-6)
    keep = targets != IGNORED
    counted = [smp.metrics.get_stats(p[k][None, None], t[k][None, None], mode="binary", threshold=threshold) for p, t, k in zip(probability, targets, keep)]
    stats = [torch.cat(parts) for parts in zip(*counted)]
    functions = {"iou": smp.metrics.iou_score, "f1": smp.metrics.f1_score, **{name: getattr(smp.metrics, name) for name in ("precision", "recall", "accuracy")}}
    for name, function in functions.items(): assert ours[name] == pytest.approx(function(*stats, reduction="micro").item(), rel=1e-6), name
    assert ours["iou_per_image"] == pytest.approx(smp.metrics.iou_score(*stats, reduction="micro-imagewise").item(), rel=1e-6)
    for size in (1, 7, 64):
        assert counted_in_batches(logits, targets, size, threshold) == pytest.approx(ours, rel=1e-9)
        for name, metric in METRICS.items():
            metric = metric(threshold=threshold, ignore_index=IGNORED)
            for part in zip(probability.split(size), targets.split(size)): metric.update(*part)
            assert ours[name] == pytest.approx(metric.compute().item(), rel=1e-6), (name, size)


SMP_LOSSES = {"bce": smp.losses.SoftBCEWithLogitsLoss, "dice": partial(smp.losses.DiceLoss, "binary"), "focal": partial(smp.losses.FocalLoss, "binary", gamma=2.0),
              "bce_dice": lambda: lambda logits, targets: SMP_LOSSES["bce"]()(logits, targets) + SMP_LOSSES["dice"]()(logits, targets)}


def written_out(name, logits, targets):
    "The losses' definitions; every pixel counts."
    if name == "bce_dice": return written_out("bce", logits, targets) + written_out("dice", logits, targets)
    p, q = logits.sigmoid(), (-logits).sigmoid()
    right = torch.where(targets == 1, p, q)  # probability of what is there
    if name == "dice": return 1 - 2 * (p * targets).sum() / (p + targets).sum()
    return (-right.log() * (1 - right if name == "focal" else torch.ones_like(right)) ** 2).mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_smps(name):
    logits, targets = predictions(0.0)
    found = value_and_gradients(lambda x: make_loss(name)(x, targets), 4 * logits)
    assert_near(found, value_and_gradients(lambda x: SMP_LOSSES[name]()(x, targets.double()), 4 * logits.double()))
    assert_near(found, value_and_gradients(lambda x: written_out(name, x, targets), 4 * logits.double()))
    rounded = logits.bfloat16()  # what autocast hands over is worked on in float32
    torch.testing.assert_close(make_loss(name)(rounded, targets), make_loss(name)(rounded.float(), targets), rtol=0, atol=0)


def on_counted(function, targets):
    "A loss of the counted pixels alone."
    keep = targets != IGNORED
    return lambda x: function(x[keep][None, None], targets[keep][None, None].double())


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_say_in_what_is_trained(name):
    logits, targets = predictions(0.15)
    found = value_and_gradients(lambda x: make_loss(name)(x, targets), logits)
    assert_near(found, value_and_gradients(on_counted(SMP_LOSSES[name](), targets), logits.double()))


@pytest.mark.parametrize("name", ["bce", "dice", "focal"])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_loss_figures_are_smps_on_all_counted_pixels(name, ignored):
    logits, targets = predictions(ignored)
    for reference in (SMP_LOSSES[name](), partial(written_out, name)):
        assert counted_in_batches(logits, targets, 7)[f"{name}_loss"] == pytest.approx(on_counted(reference, targets)(logits.double()).item(), rel=1e-6)
