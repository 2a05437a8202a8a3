"""The hot loops on a GPU, without one.

torch's FakeTensorMode computes shapes and devices only, so tensors and modules can be "on cuda" on any machine. In it,
what mixes devices raises, and so does what makes the host wait: `.item()`, `.tolist()`, a Python `if` on a tensor.
"""
import types

import pytest
import torch
from conftest import ROOT, study_cells
from torch._subclasses import FakeTensorMode

from simseg import simclr, unet
from simseg.augmentations import random_pairs, two_views
from simseg.learning.consistency import Consistency
from simseg.base.run import Kept
from simseg.base.files import read_yaml
from simseg.base.parameters import parameter_defaults
from simseg.images.masks import BORDERS, make_targets
from simseg.learning.metrics import LOSSES, count_batch
from simseg.simclr import OPTIMIZERS, SimCLR, make_optimizer
from simseg.study.files import check_study

GPU = torch.device("cuda")
# the backward pass takes a driver, so it is left out, and the optimizer steps along gradients of ones
ACCELERATOR = types.SimpleNamespace(device=GPU, process_index=0, num_processes=1, backward=lambda loss: None,
                                    autocast=lambda: torch.autocast("cuda", torch.bfloat16))
GENERATOR = types.SimpleNamespace(device=GPU)  # one on a GPU needs a driver


@pytest.fixture
def gpu(monkeypatch):
    "Inside, every new tensor is a fake one."
    draw = torch.rand

    def rand(*shape, generator=None, **more): return draw(*shape, **more)

    monkeypatch.setattr(torch, "rand", rand)
    with FakeTensorMode(): yield


def pictures(n: int = 8, device=GPU) -> torch.Tensor:
    return torch.zeros(n, 3, 64, 64, dtype=torch.uint8, device=device)


def trimaps(n: int = 8, device=GPU) -> torch.Tensor:
    return torch.ones(n, 64, 64, dtype=torch.uint8, device=device)


def test_what_this_is_made_to_notice(gpu):
    "A GPU's tensor with the host's, and each way to wait."
    values = torch.rand(4, device=GPU)
    with pytest.raises(RuntimeError, match="device"): values + torch.rand(4)
    for wait in (torch.Tensor.item, torch.Tensor.tolist, bool):
        with pytest.raises(RuntimeError, match="item|tolist|_local_scalar_dense"): wait(values.sum())


def test_views(gpu):
    both = two_views(pictures(), GENERATOR)
    assert both.device.type == "cuda" and both.shape == (16, 3, 64, 64)
    assert two_views(pictures(4), GENERATOR, share=(1, 2)).shape == (8, 3, 64, 64)


def test_paired_augmentation(gpu):
    images, masks = random_pairs(pictures(), trimaps(), GENERATOR)
    assert images.device.type == masks.device.type == "cuda" and masks.dtype == torch.uint8


def on_gpu(make):
    "A model there, with a gradient for each weight."
    with GPU: model = make()
    for weight in model.parameters(): weight.grad = torch.ones_like(weight)
    return model


def waits_at(function, *arguments) -> str:
    "The line of a function at which the host waits for the GPU."
    with pytest.raises(RuntimeError, match="item|numpy|_local_scalar_dense") as caught:
        begun = function(*arguments)
        if isinstance(begun, types.GeneratorType): next(begun)
    (line,) = [str(entry.statement) for entry in caught.traceback if entry.name == function.__name__]
    return line.strip()


@pytest.mark.parametrize("images_lie", ["cuda", "cpu"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_epoch_of_pretraining_waits_once(gpu, name, images_lie):
    "Two batches: views, forward pass, NT-Xent, a step; of a data set on the GPU, and of one that was too large for it."
    model = on_gpu(lambda: SimCLR("resnet18", 32, 16))
    optimizer = make_optimizer(model, name, 0.1, 1e-6)
    schedule = simclr.make_schedule(optimizer, 4, 1)
    order = torch.arange(16, device=images_lie)
    params = {"batch_size": 8, "temperature": 0.1}
    line = waits_at(simclr.train_epoch, model, model, pictures(16, images_lie), order, params, schedule, ACCELERATOR,
                    lambda images: two_views(images, GENERATOR))
    assert line == "return torch.stack(losses).mean().item()"


@pytest.mark.parametrize("classes", ["", "cat=1 dog=2"])
@pytest.mark.parametrize("changed", [{"loss": name} for name in LOSSES] + [{"border": name} for name in BORDERS]
                         + [{"augment": True}, {"freeze_encoder": True}])
def test_an_epoch_of_fine_tuning_waits_once(gpu, changed, classes, monkeypatch):
    "Two batches: augmentation, scaling, forward pass, each loss, a step; torch's moving average cannot be copied so."
    true_generator = unet.generator_for
    monkeypatch.setattr(unet, "generator_for", lambda *named: GENERATOR if GPU in named else true_generator(*named))
    params = {**parameter_defaults("unet"), "batch_size": 8, "schedule": "cosine", "compile": "off", **changed}
    model = on_gpu(lambda: unet.make_unet("scratch", "resnet18", classes))
    model.to = lambda *device, **layout: model  # a fake weight is not swapped
    data = unet.TrainingSet(pictures(16), trimaps(16), torch.arange(16), torch.arange(0))
    line = waits_at(unet.finetune, model, data, params, ACCELERATOR, Kept())
    assert line == 'row = {"epoch": epoch, "loss": (torch.stack(losses).sum() / len(order)).item()}'


@pytest.mark.parametrize("classes", ["", "cat=1 dog=2"])
def test_images_without_labels_wait_with_the_rest(gpu, classes):
    "Their views, the teacher's targets and the loss on them; the teacher is another model here."
    model = on_gpu(lambda: unet.make_unet("scratch", "resnet18", classes))
    teacher = on_gpu(lambda: unet.make_unet("scratch", "resnet18", classes)).eval()
    agreement = Consistency.__new__(Consistency)
    vars(agreement).update(model=model, images=pictures(16), unlabelled=torch.arange(16), steps=4, weight=1.0,
                           accelerator=ACCELERATOR, teacher=teacher, order=None, views=GENERATOR, recorded=[])
    assert agreement.loss(model, 8, step=0).device.type == "cuda"
    agreement.update_teacher(step=0)
    assert waits_at(agreement.means).startswith("loss, share = ")


def test_counting_several_classes_waits_when_all_is_counted(gpu):
    logits = torch.rand(8, 3, 64, 64, device=GPU)
    for border in BORDERS: assert waits_at(count_batch, logits, make_targets(trimaps(), border)).startswith("return")


def test_counting_waits_when_all_is_counted(gpu):
    logits = torch.rand(8, 1, 64, 64, device=GPU)
    for border in BORDERS: assert waits_at(count_batch, logits, make_targets(trimaps(), border)).startswith("return")


def test_what_make_gpu_runs_fits_its_time(monkeypatch):
    "At most 25 minutes in all, of scripts that are there, and a study that is one."
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu as make_gpu

    planned = make_gpu.parts(types.SimpleNamespace(device="cuda", data_root="/data"))
    assert sum(minutes for minutes, _ in planned.values()) <= 25
    for _, command in planned.values():
        for part in command:
            if str(part).endswith(".py"): assert (ROOT / part).is_file()
    pets = read_yaml(ROOT / "params" / "pets-small.yaml")
    assert len(study_cells(check_study({**pets, **make_gpu.STUDY}))) == 12
