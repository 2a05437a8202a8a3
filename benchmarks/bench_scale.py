"""Does a larger set cost more? Images per second and memory at 5,000, 50,000 and 200,000 images, read from a
memory-mapped file.

Each size runs in a process of its own, on random pixels in a temporary folder, for the same number of steps with images
drawn from the whole set. Memory is what the process holds beyond the mapped file (RssAnon of Linux) and, on a GPU, what
torch holds there beyond the images; both as the growth over what it held before the set was opened.

    python benchmarks/bench_scale.py
"""
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from common import finish, parse, synchronise

from simseg.augmentations import jitter_colour
from simseg.core import generator_for, make_accelerator
from simseg.data import to_device
from simseg.simclr import SimCLR, make_optimizer, make_schedule, train_epoch

OPTIONS = {
    "images": [5000, 50_000, 200_000], "size": 32, "encoder": "resnet18", "batch": 128, "steps": 20, "rounds": 5,
}
MEMORY = ["beyond the file, MiB", "on the GPU, MiB"]


def anonymous_memory() -> float:  # MiB
    "What this process holds that is no file's."
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024


class Peak(threading.Thread):
    "Watches a process's memory until stopped."

    def __init__(self):
        super().__init__(daemon=True)
        self.highest = 0.0
        self.going = True

    def run(self):
        while self.going:
            self.highest = max(self.highest, anonymous_memory())
            time.sleep(0.02)


def measure(file: str, args):
    "Train on a set, in this process; print the rates of the rounds and the memory as JSON."
    accelerator = make_accelerator(args.device)
    device = accelerator.device
    model = SimCLR(args.encoder)
    optimizer = make_optimizer(model, "adamw", 1e-3, 1e-6)
    schedule = make_schedule(optimizer, 10**6, 0)
    model, optimizer = accelerator.prepare(model.to(memory_format=torch.channels_last), optimizer)
    before = anonymous_memory()
    peak = Peak()
    peak.start()
    images = to_device(np.load(file, mmap_mode="c"), device)
    generator = generator_for(0, "views", device)
    rates = []
    for _ in range(args.rounds + 1):  # the first warms up
        start = time.perf_counter()
        order = torch.randperm(len(images))[:args.steps * args.batch].to(images.device)
        train_epoch(model, model, jitter_colour, images, order, args.batch, 0.1, optimizer, schedule, accelerator,
                    generator)
        synchronise(device)
        rates.append(args.steps * args.batch / (time.perf_counter() - start))
    peak.going = False
    on_gpu = 0
    if device.type == "cuda": on_gpu = torch.cuda.max_memory_allocated() - images.is_cuda * images.nbytes
    memory = dict(zip(MEMORY, [round(peak.highest - before), round(on_gpu / 2**20)]))
    print(json.dumps({"rates": rates[1:], **memory}))


def random_pixels(path: Path, n: int, size: int):
    "A file of images such as the cache holds."
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 3, size, size))
    for start in range(0, n, 5000):
        part = file[start:start + 5000]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)


def in_its_own_process(file: Path) -> dict:
    "What `measure` prints, of a new process with this one's options."
    command = [sys.executable, __file__, "--measure", str(file), *sys.argv[1:], "--rounds", "2"]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def compare(args) -> list[dict]:
    "A row a size; each round goes through the sizes."
    found = {n: [] for n in args.images}
    with tempfile.TemporaryDirectory() as folder:
        for n in args.images: random_pixels(Path(folder) / f"{n}.npy", n, args.size)
        for _ in range(args.rounds):
            for n in args.images: found[n].append(in_its_own_process(Path(folder) / f"{n}.npy"))
    rates = {n: [max(each["rates"]) for each in found[n]] for n in args.images}
    rows = []
    for n in args.images:
        relative = statistics.median(rate / first for rate, first in zip(rates[n], rates[args.images[0]]))
        row = {"images": n, "file, MiB": round(n * 3 * args.size**2 / 2**20)}
        row |= {"images/s": round(statistics.median(rates[n])), "of the first": f"{relative:.2f}"}
        rows.append({**row, **{name: max(each[name] for each in found[n]) for name in MEMORY}})
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--measure":
        file = sys.argv.pop(2)
        sys.argv.pop(1)
        measure(file, parse(__doc__, **OPTIONS))
        sys.exit()
    args = parse(__doc__, **OPTIONS)
    finish("scale", compare(args), args)
