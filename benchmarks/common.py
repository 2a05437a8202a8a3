"What the benchmarks share: options, alternation, medians, one table, one JSON file."
import argparse
import statistics
import time

import torch

from simseg.core import make_accelerator, progress, provenance, resolve_path, write_json


def parse(
    description: str,  # the script's docstring
    **options,  # name → default; a list stands for several values
) -> argparse.Namespace:  # those, and `rounds`, `device`, `threads`
    "Options of a benchmark."
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in {**options, "rounds": 5, "device": "auto", "threads": torch.get_num_threads()}.items():
        several = isinstance(default, list)
        parser.add_argument(f"--{name}", type=type(default[0] if several else default), nargs="+" if several else None, default=default, help=HELP[name])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


HELP = {
    "rounds": "alternations; the table holds their medians", "device": "auto, cpu or cuda", "threads": "CPU threads, and workers of the peers' loaders",
    "sizes": "pixels of a side", "images": "how many images", "encoder": "the ResNet: resnet18, resnet34, resnet50, …", "batch": "images a step",
    "steps": "training steps a round", "seconds": "how long one contestant draws in a round", "compile": "auto, on or off, as the parameter of 02_simclr and 03_unet",
    "settings": "size:encoder:batch of each comparison",
}


def synchronise(device: torch.device):
    "Wait for the GPU, so that a clock read next means something."
    if device.type == "cuda": torch.cuda.synchronize()


def alternate(
    contestants: dict,  # name → function without arguments that gives one measurement
    rounds: int,
) -> dict:  # name → its measurements, one a round
    "Measure each in turn, round after round, so that a machine that slows down slows all of them."
    measured = {name: [] for name in contestants}
    for _ in progress(range(rounds)):
        for name, measure in contestants.items(): measured[name].append(measure())
    return measured


def rates_of(
    epochs,  # yields after every epoch of a training loop
    images: int,  # trained on in an epoch
    device: torch.device,
):  # a function that runs one epoch and gives images per second
    "The rate of a loop that is held between epochs; its first epoch, which warms up and compiles, is run here and not counted."
    def one_epoch():
        synchronise(device)
        start = time.perf_counter()
        next(epochs)
        synchronise(device)
        return images / (time.perf_counter() - start)

    one_epoch()
    return one_epoch


def summarise(
    setting: dict,  # what the row is about: size, encoder, …
    measured: dict,  # as `alternate` gives, `simseg` among them
    unit: str,  # "views/s"
) -> list[dict]:  # one row a contestant
    "Median and range of each, and how many times faster simseg is, as the median over the alternations."
    times = {name: [own / other for own, other in zip(measured["simseg"], values)] for name, values in measured.items()}
    return [{**setting, "what": name, unit: round(statistics.median(values), 1), "lowest": round(min(values), 1), "highest": round(max(values), 1),
             "simseg is": f"{statistics.median(times[name]):.2f}×"} for name, values in measured.items()]


def finish(
    name: str,  # of the benchmark
    rows: list[dict],
    args: argparse.Namespace,
):
    "Print the table; write outputs/benchmarks/<name>.json with the options, the versions and the machine."
    widths = {key: max(len(key), *(len(str(row.get(key, ""))) for row in rows)) for key in rows[0]}
    print("  ".join(key.rjust(width) for key, width in widths.items()))
    for row in rows: print("  ".join(str(row.get(key, "")).rjust(width) for key, width in widths.items()))
    machine = provenance(make_accelerator(args.device))
    path = write_json(resolve_path("outputs/benchmarks") / f"{name}.json", {"options": vars(args), "ran_on": machine, "rows": rows})
    print(f"\n{machine['machine']}, {args.threads} threads, {machine['device']}, {machine['precision']}, torch {machine['torch']} → {path}")
