"""On a real GPU: the same answers as on the CPU, and no waiting. Skipped without one; `make gpu` runs it first."""
import contextlib

import pytest
import torch
from conftest import small
from safetensors.torch import load_file

from simseg.augmentations import random_pairs, random_views, two_views
from simseg.core import generator_for, make_accelerator
from simseg.evaluation import run_evaluation
from simseg.masks import LOSSES, count_batch, make_loss, make_targets
from simseg.simclr import SimCLR, nt_xent, run_simclr
from simseg.synthetic import draw_synthetic
from simseg.unet import make_unet, run_unet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
GPU = torch.device("cuda")


@pytest.fixture
def drawn():
    "Images and masks on the GPU."
    data = draw_synthetic(32, 64)
    return torch.from_numpy(data.images).to(GPU), torch.from_numpy(data.masks).to(GPU)


@contextlib.contextmanager
def no_waiting():
    "Whatever makes the host wait raises."
    torch.cuda.set_sync_debug_mode("error")
    try: yield
    finally: torch.cuda.set_sync_debug_mode("default")


def on_both(function, *tensors):
    "What a function gives on the GPU and on the CPU, both on the CPU."
    return function(*tensors).cpu(), function(*[tensor.cpu() for tensor in tensors])


def test_views_wait_for_nothing(drawn):
    images, masks = drawn
    generator = generator_for(0, "views", GPU)

    def make():
        two_views(images, generator)
        random_pairs(images, masks, generator)

    make()  # once, since the mean and deviation of colours are copied to the GPU then
    with no_waiting(): make()


def test_a_step_of_each_kind_waits_for_nothing(drawn):
    images, masks = drawn
    model = SimCLR("resnet18").to(GPU)
    unet = make_unet("scratch", "resnet18").to(GPU)
    views = two_views(images, generator_for(0, "views", GPU))
    first, second = model(views).chunk(2)  # once, so that cuDNN has chosen
    logits = unet(views)
    with no_waiting():
        nt_xent(*model(views).chunk(2)).backward()
        for name in LOSSES: make_loss(name)(unet(images / 255), make_targets(masks, "ignore")).backward()
    assert first.isfinite().all() and logits.isfinite().all()


def test_the_same_answers_as_on_the_cpu(drawn):
    "Forward passes and losses in float32; counts to the last pixel, where logits are the same."
    images, masks = drawn
    torch.backends.cudnn.allow_tf32 = False
    model = SimCLR("resnet18").eval()
    views = random_views(images, generator_for(0, "views", GPU))

    def project(x): return model.to(x.device)(x).detach()

    there, here = on_both(project, views)
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*on_both(nt_xent, here[:16].to(GPU), here[16:].to(GPU)), rtol=1e-4, atol=1e-5)
    logits = torch.randn(32, 1, 64, 64, generator=torch.Generator().manual_seed(0)).to(GPU)
    targets = make_targets(masks, "ignore")
    for name in LOSSES: torch.testing.assert_close(*on_both(make_loss(name), logits, targets), rtol=1e-4, atol=1e-5)
    counted = ["tp", "fp", "fn", "tn"]
    assert count_batch(logits, targets)[counted].equals(count_batch(logits.cpu(), targets.cpu())[counted])


def test_pretraining_to_evaluation(tmp_path):
    "As a user runs it; stopped and gone on on the way; the encoder's file is one that a CPU reads."
    here = {"device": "cuda"}
    run_simclr({**small("simclr", tmp_path / "simclr", epochs=2, stop_after=1), **here})
    history = run_simclr({**small("simclr", tmp_path / "simclr", epochs=2), **here})
    assert len(history) == 2
    assert all(value.device.type == "cpu" for value in load_file(tmp_path / "simclr" / "encoder.safetensors").values())
    run_unet({**small("unet", tmp_path / "unet", encoder=str(tmp_path / "simclr"), augment=True, ema=0.9), **here})
    model_dir = str(tmp_path / "unet" / "model")
    there, _ = run_evaluation({**small("evaluation", tmp_path / "gpu", model_dir=model_dir), **here})
    on_cpu, _ = run_evaluation(small("evaluation", tmp_path / "cpu", model_dir=model_dir))
    assert there["iou"] == pytest.approx(on_cpu["iou"], abs=0.02)


def test_as_many_processes_as_gpus(tmp_path):
    "NCCL and torch's own synchronised batch norm."
    n = torch.cuda.device_count()
    history = run_simclr({**small("simclr", tmp_path, epochs=1, processes=n), "device": "cuda"})
    assert len(history) == 1


def test_compiled_steps_learn_the_same(tmp_path):
    losses = []
    for compile in ("off", "on"):
        params = small("simclr", tmp_path / compile, epochs=1, precision="fp32", compile=compile)
        losses.append(run_simclr({**params, "device": "cuda"})[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_the_precision_is_what_the_card_has():
    expected = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    assert make_accelerator("cuda").mixed_precision == expected
