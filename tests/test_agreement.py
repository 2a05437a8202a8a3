"Losses, LARS and metrics against independent references, on random inputs: values, and gradients where there are any."
import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from lightly.loss import NTXentLoss
from torch import nn
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryJaccardIndex, BinaryPrecision, BinaryRecall
from torchmetrics.functional.classification import binary_jaccard_index

from simseg.masks import IGNORED, LOSSES, count_batch, make_loss, summarise
from simseg.simclr import make_optimizer, make_schedule, nt_xent


def value_and_gradients(function, *inputs):
    "What a function gives, and its gradient for each input."
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def assert_near(found, expected, tolerance=1e-5):
    "Each value or gradient to `tolerance` of the largest in it."
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance * b.abs().max().item())


def assert_equal(found, expected): torch.testing.assert_close(found, expected, rtol=0, atol=0)


def equation_1(first, second, temperature):
    "NT-Xent as the paper writes it, view by view."
    n = len(first)
    z = torch.cat([first, second])
    lengths = z.norm(dim=1) * z.norm(dim=1, keepdim=True)
    similarity = torch.exp(z @ z.T / lengths / temperature)
    others = ~torch.eye(2 * n, dtype=torch.bool)
    losses = [-torch.log(similarity[i, (i + n) % (2 * n)] / similarity[i, others[i]].sum()) for i in range(2 * n)]
    return sum(losses) / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 7, 64])
def test_nt_xent_is_lightlys_and_the_papers(n, temperature):
    generator = torch.Generator().manual_seed(n)
    views = torch.randn(2, n, 16, generator=generator) * 5 * torch.rand(2, n, 1, generator=generator)
    found = value_and_gradients(lambda a, b: nt_xent(a, b, temperature), *views)
    assert_near(found, value_and_gradients(NTXentLoss(temperature), *views.double()))
    assert_near(found, value_and_gradients(lambda a, b: equation_1(a, b, temperature), *views.double()))
    rounded = views.bfloat16()  # what autocast hands over is worked on in float32
    assert_equal(nt_xent(*rounded, temperature), nt_xent(*rounded.float(), temperature))


class PlainLars:
    """LARS written out for one model, in timm's form or in the paper's.

    timm's is You et al.'s. The paper's code (lars_optimizer.py of google-research/simclr) differs in two things: it
    takes the norm of gradient and decay together, not of each, and multiplies the rate into the velocity, so that a
    change of rate acts with a delay. At a constant rate and the paper's weight decay of 1e-6 both do the same.
    """

    def __init__(self, model, form: str, weight_decay: float, left_out: set):
        self.form = form
        self.weight_decay = weight_decay
        self.left_out = left_out
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.velocity = {name: torch.zeros_like(p) for name, p in self.weights.items()}

    def trust(self, w, gradient, decayed) -> float:
        "By how much a layer's step is scaled."
        if w.norm() == 0: return 1.0
        together = gradient.norm() + self.weight_decay * w.norm() if self.form == "timm" else decayed.norm()
        return 0.001 * w.norm() / together

    def step(self, name: str, gradient, rate: float):
        "Move one tensor."
        w = self.weights[name]
        step = gradient
        if name not in self.left_out:
            decayed = gradient + self.weight_decay * w
            step = self.trust(w, gradient, decayed) * decayed
        if self.form == "timm":
            self.velocity[name] = 0.9 * self.velocity[name] + step
            self.weights[name] = w - rate * self.velocity[name]
        else:
            self.velocity[name] = 0.9 * self.velocity[name] + rate * step
            self.weights[name] = w - self.velocity[name]


def warmed_up(step: int) -> float:
    "A rate of 0.3, after five steps of warm-up a cosine to zero over fifteen."
    if step < 5: return 0.3 * (step + 1) / 5
    return 0.15 * (1 + np.cos(np.pi * (step - 5) / 15))


@pytest.mark.parametrize("form, weight_decay, warmup", [
    ("timm", 1e-6, 0),
    ("timm", 1e-2, 5),
    ("paper's code", 1e-6, 0),
])
def test_lars_is_the_plain_one_for_20_steps(form, weight_decay, warmup):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).double()
    nn.init.zeros_(model[3].weight)  # of no length to adapt to: the first step is a plain one
    plain = PlainLars(model, form, weight_decay, {"0.bias", "1.weight", "1.bias", "3.bias"})
    optimizer = make_optimizer(model, "lars", 0.3, weight_decay)
    schedule = make_schedule(optimizer, 20, warmup) if warmup else None
    tolerance = 1e-9 if form == "timm" else 1e-7
    for step in range(20):
        rate = warmed_up(step) if schedule else 0.3
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p) * 10 ** (2 * torch.rand(()) - 2)
            plain.step(name, p.grad, rate)
        optimizer.step()
        if schedule: schedule.step()
        found = dict(model.named_parameters())
        torch.testing.assert_close(found, plain.weights, rtol=1e-6, atol=tolerance, msg=lambda m: f"step {step}: {m}")


def predictions(ignored, images=64):
    "Logits, many between 0 and 1, and targets: some images without foreground, in some of which none is found."
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(images, 1, 12, 12, generator=generator)
    shares = torch.rand(images, 1, 1, 1, generator=generator)
    targets = (pixels < shares).long()
    targets[:6] = 0
    logits = 1.5 * torch.randn(images, 1, 12, 12, generator=generator) + targets
    logits[:3] = -2.0
    left_out = torch.rand(images, 1, 12, 12, generator=generator) < ignored
    return logits, torch.where(left_out, IGNORED, targets)


def counted_in_batches(logits, targets, size, threshold=0.5):
    "Metrics of images that were counted some at a time."
    parts = [count_batch(*part, threshold) for part in zip(logits.split(size), targets.split(size))]
    return summarise(pd.concat(parts))


def smp_counts(probability, targets, threshold):
    "tp, fp, fn, tn of each image as smp counts them, on its counted pixels alone."
    counts = []
    for p, t in zip(probability, targets):
        keep = t != IGNORED
        pixels = p[keep][None, None], t[keep][None, None]
        counts.append(smp.metrics.get_stats(*pixels, mode="binary", threshold=threshold))
    return [torch.cat(parts) for parts in zip(*counts)]


TORCHMETRICS = {
    "iou": BinaryJaccardIndex, "f1": BinaryF1Score, "precision": BinaryPrecision, "recall": BinaryRecall,
    "accuracy": BinaryAccuracy,
}
SMP_METRICS = {
    "iou": smp.metrics.iou_score, "f1": smp.metrics.f1_score, "precision": smp.metrics.precision,
    "recall": smp.metrics.recall, "accuracy": smp.metrics.accuracy,
}


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_metrics_are_those_of_torchmetrics_and_smp_for_any_batch_size(ignored, threshold):
    logits, targets = predictions(ignored)
    probability = logits.sigmoid()
    ours = counted_in_batches(logits, targets, 64, threshold)
    pairs = zip(probability, targets)
    per_image = [binary_jaccard_index(*pair, threshold, IGNORED, zero_division=1.0) for pair in pairs]
    assert ours["iou_per_image"] == pytest.approx(torch.stack(per_image).mean().item(), rel=1e-6)
    counts = smp_counts(probability, targets, threshold)
    for name, function in SMP_METRICS.items():
        assert ours[name] == pytest.approx(function(*counts, reduction="micro").item(), rel=1e-6), name
    imagewise = smp.metrics.iou_score(*counts, reduction="micro-imagewise").item()
    assert ours["iou_per_image"] == pytest.approx(imagewise, rel=1e-6)
    for size in (1, 7, 64):
        assert counted_in_batches(logits, targets, size, threshold) == pytest.approx(ours, rel=1e-9)
        for name, metric in TORCHMETRICS.items():
            metric = metric(threshold=threshold, ignore_index=IGNORED)
            for part in zip(probability.split(size), targets.split(size)): metric.update(*part)
            assert ours[name] == pytest.approx(metric.compute().item(), rel=1e-6), (name, size)


def smps(name, logits, targets):
    "The losses of smp."
    if name == "bce_dice": return smps("bce", logits, targets) + smps("dice", logits, targets)
    if name == "dice": return smp.losses.DiceLoss("binary")(logits, targets)
    if name == "focal": return smp.losses.FocalLoss("binary", gamma=2.0)(logits, targets)
    return smp.losses.SoftBCEWithLogitsLoss()(logits, targets)


def written_out(name, logits, targets):
    "The losses' definitions; every pixel counts."
    if name == "bce_dice": return written_out("bce", logits, targets) + written_out("dice", logits, targets)
    p = logits.sigmoid()
    if name == "dice": return 1 - 2 * (p * targets).sum() / (p + targets).sum()
    right = torch.where(targets == 1, p, (-logits).sigmoid())  # probability of what is there
    weight = (1 - right) ** 2 if name == "focal" else torch.ones_like(right)
    return (-right.log() * weight).mean()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_smps(name):
    logits, targets = predictions(0.0)
    found = value_and_gradients(lambda x: make_loss(name)(x, targets), 4 * logits)
    for reference in (smps, written_out):
        assert_near(found, value_and_gradients(lambda x: reference(name, x, targets.double()), 4 * logits.double()))
    rounded = logits.bfloat16()  # what autocast hands over is worked on in float32
    assert_equal(make_loss(name)(rounded, targets), make_loss(name)(rounded.float(), targets))


def on_counted(reference, name, logits, targets):
    "A loss of the counted pixels alone."
    keep = targets != IGNORED
    return reference(name, logits[keep][None, None], targets[keep][None, None].double())


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_say_in_what_is_trained(name):
    logits, targets = predictions(0.15)
    found = value_and_gradients(lambda x: make_loss(name)(x, targets), logits)
    assert_near(found, value_and_gradients(lambda x: on_counted(smps, name, x, targets), logits.double()))


@pytest.mark.parametrize("name", ["bce", "dice", "focal"])
@pytest.mark.parametrize("ignored", [0.0, 0.15])
def test_loss_figures_are_smps_on_all_counted_pixels(name, ignored):
    logits, targets = predictions(ignored)
    found = counted_in_batches(logits, targets, 7)[f"{name}_loss"]
    for reference in (smps, written_out):
        assert found == pytest.approx(on_counted(reference, name, logits.double(), targets).item(), rel=1e-6)
