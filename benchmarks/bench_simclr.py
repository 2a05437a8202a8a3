"""How fast is the whole SimCLR loop? simseg's `pretrain` against lightly's documented loop, on the same images, encoder
and batch.

lightly's side is its SimCLR tutorial as printed (LightlyDataset of a folder, SimCLRTransform, DataLoader,
SimCLRProjectionHead, NTXentLoss, SGD, fp32), with as many workers as there are threads. The first epoch, in which
workers start, images are decoded into the cache and models are compiled, counts for neither. Settings are
pixels:encoder:batch:steps.

    python benchmarks/bench_simclr.py

Where lightly-train is installed (`pip install lightly-train`; its licence is AGPL, and simseg does not need it), its
`pretrain` with method "simclr" is measured too, in our precision. It cannot be held between epochs, so it is run twice
a round, for one epoch and for four, and the difference counts.
"""
import contextlib
import io
import logging
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision
from common import compare_loops, finish, parse
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn

from simseg.core import bf16_in_hardware, parameter_defaults
from simseg.data import load_unlabelled, to_device
from simseg.simclr import SimCLR, pretrain
from simseg.synthetic import draw_synthetic

SETTINGS = ["32:resnet18:128:8", "64:resnet18:128:4", "128:resnet50:32:4", "224:resnet50:32:2"]


def write_pictures(folder: Path, n: int, size: int):
    "Pictures to train on, as JPEG files."
    for i, image in enumerate(draw_synthetic(n, size).images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:06d}.jpg", quality=92)


def simseg_epochs(folder: Path, size: int, encoder: str, batch: int, accelerator, compile: str):
    "Epochs of our loop."
    params = parameter_defaults("simclr")
    params |= {"batch_size": batch, "epochs": 10**6, "seed": 0, "compile": compile}
    data = load_unlabelled(str(folder), size)
    images = to_device(data.images, accelerator.device)
    train = torch.arange(len(data))
    yield from pretrain(SimCLR(encoder), images, data.labels, train, train[:0], params, accelerator)


class LightlySimCLR(nn.Module):
    "The model of lightly's tutorial."

    def __init__(self, encoder: str):
        super().__init__()
        resnet = torchvision.models.get_model(encoder, weights=None)
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimCLRProjectionHead(resnet.fc.in_features, 512, 128)

    def forward(self, x): return self.projection_head(self.backbone(x).flatten(start_dim=1))


def lightly_epochs(folder: Path, size: int, encoder: str, batch: int, device: torch.device, workers: int):
    "Epochs of lightly's loop: https://docs.lightly.ai/self-supervised-learning/examples/simclr.html"
    model = LightlySimCLR(encoder).to(device)
    dataset = LightlyDataset(str(folder), transform=SimCLRTransform(input_size=size))
    # Workers that stay between epochs are kinder to lightly than its tutorial, which starts them anew every epoch.
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers,
                                         persistent_workers=True)
    criterion = NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    while True:
        total_loss = 0
        for views, _, _ in loader:
            x0, x1 = views
            loss = criterion(model(x0.to(device)), model(x1.to(device)))
            total_loss += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        yield total_loss / len(loader)


@contextlib.contextmanager
def quiet():
    "Without what a training prints."
    nobody = io.StringIO()
    with contextlib.redirect_stdout(nobody), contextlib.redirect_stderr(nobody): yield


def lightly_train_rate(folder: Path, images: int, size: int, encoder: str, batch: int, device, workers: int) -> float:
    "Images per second of lightly-train's SimCLR, as its documentation calls it."
    import lightly_train

    precision = "bf16-mixed" if bf16_in_hardware(device.type) else "32-true"
    asked = {"data": folder, "model": f"torchvision/{encoder}", "method": "simclr", "batch_size": batch, "devices": 1,
             "num_workers": workers, "accelerator": "cpu" if device.type == "cpu" else "gpu", "precision": precision,
             "transform_args": {"image_size": (size, size)}}

    def seconds(epochs: int) -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as out, quiet():
            lightly_train.pretrain(out=out, epochs=epochs, overwrite=True, **asked)
        return time.perf_counter() - start

    return 3 * images / (seconds(4) - seconds(1))


if __name__ == "__main__":
    args = parse(__doc__, settings=SETTINGS, compile="off", rounds=5)
    logging.disable(logging.WARNING)
    others = {"lightly-train": lightly_train_rate} if find_spec("lightly_train") else {}
    finish("simclr", compare_loops(args, write_pictures, simseg_epochs, "lightly", lightly_epochs, others), args)
