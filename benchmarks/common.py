"What the benchmarks share: options, alternation, medians, one table, one JSON file."
import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from simseg.core import keep_freed_memory, make_accelerator, provenance, resolve_path, write_json

HELP = {
    "rounds": "alternations; the table holds their medians", "device": "auto, cpu or cuda", "threads": "CPU threads, and workers of the peers' loaders",
    "size": "pixels of a side", "sizes": "pixels of a side", "images": "how many images", "encoder": "resnet18, resnet34, resnet50, …", "batch": "images a step",
    "steps": "training steps a round", "seconds": "how long one contestant draws in a round", "compile": "auto, on or off, as the parameter of 02_simclr and 03_unet",
    "settings": "what to compare, parts joined by colons", "dataset": "as 03_unet's", "data_root": "as 03_unet's", "epochs": "of pretraining; two more of fine-tuning",
    "seeds": "a run each",
}


def parse(
    description: str,  # the script's docstring
    **options,  # name → default; a list stands for several values
) -> argparse.Namespace:  # those, `device` and `threads`
    "Options of a benchmark."
    parser = argparse.ArgumentParser(description=description, formatter_class=type("", (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter), {}))
    for name, default in {**options, "device": "auto", "threads": torch.get_num_threads()}.items():
        several = isinstance(default, list)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default[0] if several else default), nargs="+" if several else None, default=default, help=HELP[name])
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
    "The rate of a loop that is held between epochs; its first epoch, which warms up and compiles, is run here and not counted."
    def one_epoch():
        synchronise(device)
        start = time.perf_counter()
        next(epochs)
        synchronise(device)
        return images / (time.perf_counter() - start)

    one_epoch()
    return one_epoch


def returning_memory(epochs):
    "The same epochs with memory handled as glibc does by itself, for a loop that would not call `keep_freed_memory`."
    while True:
        keep_freed_memory(2**25, 2**26)  # what glibc's own thresholds grow to
        epoch = next(epochs)
        keep_freed_memory()
        yield epoch


def alternate(
    setting: dict,  # what is compared: size, encoder, …
    contestants: dict,  # name → function without arguments that gives one measurement; `simseg` comes first
    unit: str,  # "views/s"
    rounds: int,
) -> list[dict]:  # a row a contestant: median, range, and how many times simseg's rate is its rate, as the median over the rounds
    "Measure each in turn, round after round, so that a machine that slows down slows all of them."
    measured = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items(): measured[name].append(measure())
    times = {name: statistics.median(own / other for own, other in zip(measured["simseg"], rates)) for name, rates in measured.items()}
    rows = [{**setting, "what": name, unit: round(statistics.median(rates), 1), "lowest": round(min(rates), 1), "highest": round(max(rates), 1),
             "simseg / it": round(times[name], 2)} for name, rates in measured.items()]
    print(*setting.values(), {name: value for name, value in times.items() if name != "simseg"}, flush=True)
    return rows


def compare_loops(
    args: argparse.Namespace,  # with `settings`, pixels:encoder:batch:steps each
    write,  # (folder, images, pixels): makes the files of a setting
    ours,  # (folder, pixels, encoder, batch, accelerator, compile): yields after every epoch
    peer: str,  # its name in the table
    theirs,  # (folder, pixels, encoder, batch, device, workers): the same
) -> list[dict]:  # the table's rows
    "Our training loop against another's, on the same files."
    rows = []
    for setting in args.settings:
        size, encoder, batch, steps = read_setting(setting)
        accelerator, n = make_accelerator(args.device), steps * batch
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            os.environ["SIMSEG_CACHE"] = cache
            write(Path(folder), n, size)
            loops = {"simseg": ours(Path(folder), size, encoder, batch, accelerator, args.compile),
                     peer: returning_memory(theirs(Path(folder), size, encoder, batch, accelerator.device, args.threads))}
            rates = {name: rates_of(epochs, n, accelerator.device) for name, epochs in loops.items()}
            rows += alternate({"pixels": size, "encoder": encoder, "batch": batch}, rates, "images/s", args.rounds)
            for epochs in loops.values(): epochs.close()
    return rows


def finish(
    name: str,  # of the benchmark
    rows: list[dict],  # of its table
    args: argparse.Namespace,
    **more,  # for the file alone
):
    "Print the table; write outputs/benchmarks/<name>.json with the options, the versions and the machine."
    widths = {key: max(len(str(row.get(key, ""))) for row in [{key: key}, *rows]) for key in rows[0]}
    for row in [dict(zip(widths, widths)), *rows]: print("  ".join(str(row.get(key, "")).rjust(width) for key, width in widths.items()))
    machine = provenance(make_accelerator(args.device))
    path = write_json(resolve_path("outputs/benchmarks") / f"{name}.json", {"options": vars(args), "ran_on": machine, "rows": rows, **more})
    print(f"\n{machine['machine']}, {args.threads} threads, {machine['device']}, {machine['precision']}, torch {machine['torch']}; written to {path}")
