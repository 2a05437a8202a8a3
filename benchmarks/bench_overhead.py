"""What does everything around the model cost? The whole loop (batches, views, loss, schedule, logging) over the bare
model step: forward pass, loss, backward pass and optimizer on one random batch that is already there, compiled and not.
Settings are stage:pixels:encoder:batch:steps.

    python benchmarks/bench_overhead.py
"""
import torch
from common import alternate, finish, parse, rates_of, read_setting

from simseg.core import compile_model, make_accelerator, parameter_defaults
from simseg.data import to_device
from simseg.masks import make_loss
from simseg.run import Kept
from simseg.simclr import SimCLR, make_optimizer, nt_xent, pretrain
from simseg.synthetic import draw_synthetic
from simseg.unet import finetune, make_unet

SETTINGS = [
    "simclr:32:resnet18:128:8", "simclr:64:resnet18:128:4", "simclr:128:resnet50:32:4",
    "unet:64:resnet18:32:4", "unet:224:resnet50:8:4",
]


def simclr_step(encoder: str, size: int, batch: int, device):
    "A model, its optimizer, its input, and the loss of its output."
    model = SimCLR(encoder).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, "lars", 0.3, 1e-6)
    x = torch.randn(2 * batch, 3, size, size, device=device)

    def loss(output): return nt_xent(*output.chunk(2), 0.1)

    return model, optimizer, x, loss


def unet_step(encoder: str, size: int, batch: int, device):
    "The same of a U-Net."
    model = make_unet("scratch", encoder).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    x = torch.randn(batch, 3, size, size, device=device)
    target = torch.randint(0, 2, (batch, 1, size, size), device=device)
    bce = make_loss("bce")

    def loss(output): return bce(output, target)

    return model, optimizer, x, loss


def bare_steps(stage: str, size: int, encoder: str, batch: int, accelerator, compile: str, steps: int):
    "Epochs of nothing but the model."
    step = {"simclr": simclr_step, "unet": unet_step}[stage]
    model, optimizer, x, loss = step(encoder, size, batch, accelerator.device)
    forward = compile_model(model.train(), compile, 0, accelerator.device)
    x = x.to(memory_format=torch.channels_last)
    while True:
        for _ in range(steps):
            with accelerator.autocast(): output = forward(x)
            loss(output).backward()
            optimizer.step()
            optimizer.zero_grad()
        yield


def whole_loop(stage: str, size: int, encoder: str, batch: int, accelerator, compile: str, steps: int):
    "Epochs as a stage runs them."
    params = parameter_defaults(stage)
    params |= {"batch_size": batch, "epochs": 10**6, "seed": 0, "compile": compile}
    data = draw_synthetic(steps * batch, size)
    train = torch.arange(len(data))
    images = to_device(data.images, accelerator.device)
    if stage == "simclr":
        yield from pretrain(SimCLR(encoder), images, data.labels, train, train[:0], params, accelerator)
        return
    params["augment"] = True
    masks = to_device(data.masks, accelerator.device)
    yield from finetune(make_unet("scratch", encoder), images, masks, train, train[:1], params, accelerator, Kept())


def compare(setting: str, args) -> list[dict]:
    "The rows of one setting."
    stage, size, encoder, batch, steps = read_setting(setting)
    accelerator = make_accelerator(args.device)
    rates = {}
    for name, loop in {"simseg": whole_loop, "bare step": bare_steps}.items():
        for suffix, compile in {"": "off", ", compiled": "on"}.items():
            epochs = loop(stage, size, encoder, batch, accelerator, compile, steps)
            rates[name + suffix] = rates_of(epochs, steps * batch, accelerator.device)
    setting = {"stage": stage, "pixels": size, "encoder": encoder, "batch": batch}
    return alternate(setting, rates, "images/s", args.rounds)


if __name__ == "__main__":
    args = parse(__doc__, settings=SETTINGS, rounds=5)
    rows = []
    for setting in args.settings: rows += compare(setting, args)
    finish("overhead", rows, args)
