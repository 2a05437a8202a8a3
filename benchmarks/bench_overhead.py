"""What does everything around the model cost? The whole loop (batches, views, loss, schedule, logging) over the bare model step: forward pass, loss, backward
pass and optimizer on one random batch that is already there, compiled and not. Settings are stage:pixels:encoder:batch:steps.

    python benchmarks/bench_overhead.py
"""
import torch
from common import alternate, finish, parse, rates_of, read_setting

from simseg.core import compile_model, make_accelerator, parameter_defaults
from simseg.data import draw_synthetic, to_device
from simseg.simclr import SimCLR, make_optimizer, nt_xent, pretrain
from simseg.unet import finetune, make_loss, make_unet


def bare_steps(stage: str, size: int, encoder: str, batch: int, accelerator, compile: str, steps: int):
    "Epochs of nothing but the model."
    device = accelerator.device
    model = (SimCLR(encoder) if stage == "simclr" else make_unet("scratch", encoder)).to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, "lars", 0.3, 1e-6) if stage == "simclr" else torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    forward, bce = compile_model(model, compile, 0, device), make_loss("bce")
    x = torch.randn(batch * (1 + (stage == "simclr")), 3, size, size, device=device).to(memory_format=torch.channels_last)
    target = torch.randint(0, 2, (batch, 1, size, size), device=device)
    while True:
        for _ in range(steps):
            with accelerator.autocast(): output = forward(x)
            (nt_xent(*output.chunk(2), 0.1) if stage == "simclr" else bce(output, target)).backward()
            optimizer.step()
            optimizer.zero_grad()
        yield


def whole_loop(stage: str, size: int, encoder: str, batch: int, accelerator, compile: str, steps: int):
    "Epochs as a stage runs them."
    params = parameter_defaults("02_simclr" if stage == "simclr" else "03_unet")
    params |= {"batch_size": batch, "epochs": 10**6, "seed": 0, "compile": compile, "augment": True}
    data, train = draw_synthetic(steps * batch, size), torch.arange(steps * batch)
    images, masks = (to_device(array, accelerator.device) for array in (data.images, data.masks))
    if stage == "simclr": yield from pretrain(SimCLR(encoder), images, data.labels, train, train[:0], params, accelerator)
    else: yield from finetune(make_unet("scratch", encoder), images, masks, train, train[:1], params, accelerator)


if __name__ == "__main__":
    args = parse(__doc__, settings=["simclr:32:resnet18:128:8", "simclr:64:resnet18:128:4", "simclr:128:resnet50:32:4", "unet:64:resnet18:32:4", "unet:224:resnet50:8:4"], rounds=5)
    rows = []
    for setting in args.settings:
        stage, size, encoder, batch, steps = read_setting(setting)
        accelerator = make_accelerator(args.device)
        loops = {f"{name}{', compiled' * (compile == 'on')}": loop(stage, size, encoder, batch, accelerator, compile, steps)
                 for name, loop in (("simseg", whole_loop), ("bare step", bare_steps)) for compile in ("off", "on")}
        rates = {name: rates_of(epochs, steps * batch, accelerator.device) for name, epochs in loops.items()}
        rows += alternate({"stage": stage, "pixels": size, "encoder": encoder, "batch": batch}, rates, "images/s", args.rounds)
    finish("overhead", rows, args)
