"What the benchmarks share: options, alternation, medians, one table, one JSON file."
import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from simseg.core import make_accelerator, resolve_path, write_json
from simseg.run import provenance

HELP = {
    "rounds": "alternations; the table holds their medians",
    "device": "auto, cpu or cuda",
    "threads": "CPU threads, and workers of the peers' loaders",
    "size": "pixels of a side",
    "sizes": "pixels of a side",
    "images": "how many images",
    "encoder": "any encoder of smp",
    "batch": "images a step",
    "steps": "training steps a round",
    "seconds": "how long one contestant draws in a round",
    "compile": "auto, on or off, as the parameter of 08_simclr and 09_unet",
    "settings": "what to compare, parts joined by colons",
    "dataset": "as 09_unet's",
    "data_root": "as 09_unet's",
    "epochs": "of pretraining; two more of fine-tuning",
    "seeds": "a run each",
    "other": "another checkout of simseg to compare with",
    "busy": "processes that compute all the while",
    "study": "a study file with evaluated models, for predictions and study",
}


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    "The docstring as it is written, and each option's default."


def parse(
    description: str,  # the script's docstring
    **options,  # name → default; a list stands for several values
) -> argparse.Namespace:  # those, `device` and `threads`
    "Options of a benchmark."
    parser = argparse.ArgumentParser(description=description, formatter_class=Formatter)
    for name, default in {**options, "device": "auto", "threads": torch.get_num_threads()}.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        nargs = "+" if several else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, nargs=nargs, default=default, help=HELP[name])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def read_setting(
    text: str,  # "simclr:64:resnet18:128"
) -> list:  # its parts, numbers as integers
    "One entry of --settings."
    return [int(part) if part.isdigit() else part for part in text.split(":")]


def synchronise(device: torch.device):
    "Wait for the GPU, so that a clock read next means something."
    if device.type == "cuda": torch.cuda.synchronize()


def rates_of(
    epochs,  # yields after every epoch of a training loop
    images: int,  # trained on in an epoch
    device: torch.device,
):  # a function that runs one epoch and gives images per second
    "The rate of a loop that is held between epochs; its first epoch warms up, compiles, and is not counted."
    def one_epoch():
        synchronise(device)
        start = time.perf_counter()
        next(epochs)
        synchronise(device)
        return images / (time.perf_counter() - start)

    one_epoch()
    return one_epoch


def in_turn(
    contestants: dict,  # name → function without arguments that gives one measurement
    rounds: int,
) -> dict:  # name → its measurements
    "Measure each in turn, round after round, so that a machine that slows down slows all of them."
    measured = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items(): measured[name].append(measure())
    return measured


def alternate(
    setting: dict,  # what is compared: size, encoder, …
    contestants: dict,  # as for `in_turn`; `simseg` is among them
    unit: str,  # "views/s"
    rounds: int,
) -> list[dict]:  # a row a contestant
    "Median, range, and how many times simseg's rate is the contestant's, as the median over the rounds."
    measured = in_turn(contestants, rounds)
    rows = []
    for name, rates in measured.items():
        times = statistics.median(own / other for own, other in zip(measured["simseg"], rates))
        row = {**setting, "what": name, unit: round(statistics.median(rates), 1)}
        row |= {"lowest": round(min(rates), 1), "highest": round(max(rates), 1), "simseg / it": round(times, 2)}
        rows.append(row)
    print(*setting.values(), {row["what"]: row["simseg / it"] for row in rows}, flush=True)
    return rows


def compare_loops(
    args: argparse.Namespace,  # with `settings`, pixels:encoder:batch:steps each
    write,  # (folder, images, pixels): makes the files of a setting
    ours,  # (folder, pixels, encoder, batch, accelerator, compile): yields after every epoch
    peer: str,  # its name in the table
    theirs,  # (folder, pixels, encoder, batch, device, workers): the same
    others: dict | None = None,  # name → a function of (folder, images, pixels, encoder, batch, device, workers)
) -> list[dict]:  # the table's rows
    "Our training loop against others', on the same files; `others` give images per second themselves."
    rows = []
    for setting in args.settings:
        size, encoder, batch, steps = read_setting(setting)
        accelerator = make_accelerator(args.device)
        device = accelerator.device
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            os.environ["SIMSEG_CACHE"] = cache
            write(Path(folder), steps * batch, size)
            loops = {
                "simseg": ours(Path(folder), size, encoder, batch, accelerator, args.compile),
                peer: theirs(Path(folder), size, encoder, batch, device, args.threads),
            }
            rates = {name: rates_of(epochs, steps * batch, device) for name, epochs in loops.items()}
            asked = (Path(folder), steps * batch, size, encoder, batch, device, args.threads)
            rates |= {name: partial(rate, *asked) for name, rate in (others or {}).items()}
            rows += alternate({"pixels": size, "encoder": encoder, "batch": batch}, rates, "images/s", args.rounds)
            for epochs in loops.values(): epochs.close()
    return rows


def print_table(rows: list[dict]):
    "Columns as wide as they need be, set to the right."
    names = {key: key for key in rows[0]}
    widths = {key: max(len(str(row.get(key, ""))) for row in [names, *rows]) for key in names}
    for row in [names, *rows]: print("  ".join(str(row.get(key, "")).rjust(width) for key, width in widths.items()))


def finish(
    name: str,  # of the benchmark
    rows: list[dict],  # of its table
    args: argparse.Namespace,
    **more,  # for the file alone
):
    "Print the table; write outputs/benchmarks/<name>.json with the options, the versions and the machine."
    print_table(rows)
    machine = provenance(make_accelerator(args.device))
    report = {"options": vars(args), "ran_on": machine, "rows": rows, **more}
    path = write_json(resolve_path("outputs/benchmarks") / f"{name}.json", report)
    said = [machine["machine"], f"{args.threads} threads", machine["device"], machine["precision"]]
    print(f"\n{', '.join(said)}, torch {machine['torch']}; written to {path}")
