"""What does it gain to keep freed memory? The whole loop, as `make_accelerator` sets it up on a CPU and with memory given back as glibc does by itself,
each time in a process of its own, since what else a process holds decides what can be given back. Settings are stage:pixels:encoder:batch:steps.

    python benchmarks/bench_memory.py
"""
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from bench_overhead import whole_loop
from common import alternate, finish, parse, rates_of, read_setting

from simseg import core


def rate(setting: str, keep: bool, device: str, threads: int) -> float:
    "Images a second, the median of three epochs after the first."
    torch.set_num_threads(threads)
    if not keep: core.keep_freed_memory = lambda: None
    accelerator = core.make_accelerator(device)
    stage, size, encoder, batch, steps = read_setting(setting)
    one_epoch = rates_of(whole_loop(stage, size, encoder, batch, accelerator, "off", steps), steps * batch, accelerator.device)
    return statistics.median(one_epoch() for _ in range(3))


def in_its_own_process(*how) -> float:
    "That, in a new process."
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool: return pool.submit(rate, *how).result()


if __name__ == "__main__":
    args = parse(__doc__, settings=["unet:224:resnet50:8:1", "simclr:128:resnet50:32:1", "unet:64:resnet18:32:6"], rounds=5)
    rows = []
    for setting in args.settings:
        loops = {name: lambda keep=keep: in_its_own_process(setting, keep, args.device, args.threads) for name, keep in (("simseg", True), ("memory returned", False))}
        rows += alternate({"setting": setting}, loops, "images/s", args.rounds)
    finish("memory", rows, args)
