"""What does it gain to keep freed memory? The whole loop on a CPU, with glibc told so as the Snakefile tells it, and
with glibc as it is by itself. Each measurement is a process of its own, since glibc reads GLIBC_TUNABLES when a process
starts. Settings are stage:pixels:encoder:batch:steps.

    python benchmarks/bench_memory.py
"""
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from bench_overhead import whole_loop
from common import alternate, finish, parse, rates_of, read_setting

from simseg.core import make_accelerator

SNAKEFILE = Path(__file__).resolve().parent.parent / "Snakefile"


def tunables() -> str:
    "What the Snakefile sets GLIBC_TUNABLES to."
    return re.search(r'"GLIBC_TUNABLES", "([^"]+)"', SNAKEFILE.read_text(encoding="utf-8"))[1]


def measure(setting: str, device: str):
    "Print images a second, the median of three epochs after the first, in this process."
    stage, size, encoder, batch, steps = read_setting(setting)
    accelerator = make_accelerator(device)
    epochs = whole_loop(stage, size, encoder, batch, accelerator, "off", steps)
    one_epoch = rates_of(epochs, steps * batch, accelerator.device)
    print(statistics.median(one_epoch() for _ in range(3)))


def in_its_own_process(setting: str, args, **environment) -> float:
    "The same, in a new process."
    options = ["--settings", setting, "--device", args.device, "--threads", str(args.threads)]
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    run = subprocess.run([sys.executable, __file__, "--measure", *options], env={**plain, **environment},
                         check=True, stdout=subprocess.PIPE, text=True)
    return float(run.stdout.splitlines()[-1])


def compare(setting: str, args) -> list[dict]:
    "The rows of one setting."
    def kept(): return in_its_own_process(setting, args, GLIBC_TUNABLES=tunables())

    def given_back(): return in_its_own_process(setting, args)

    loops = {"simseg": kept, "memory given back": given_back}
    return alternate({"setting": setting}, loops, "images/s", args.rounds)


if __name__ == "__main__":
    measured = "--measure" in sys.argv
    if measured: sys.argv.remove("--measure")
    settings = ["unet:224:resnet50:8:1", "simclr:128:resnet50:32:1", "unet:64:resnet18:32:6"]
    args = parse(__doc__, settings=settings, rounds=5)
    if measured:
        measure(args.settings[0], args.device)
        sys.exit()
    rows = []
    for setting in args.settings: rows += compare(setting, args)
    finish("memory", rows, args)
