"""What a GPU changes: every test that takes one, the precision check, every benchmark against its peers, and a study of
pets, cut to fit. At most 25 minutes; `make gpu` runs it.

    python benchmarks/gpu.py --data-root /path/to/data

Each part has a share of the time and is ended when that is over. What came of it goes to outputs/gpu/gpu.json and, for
people, to outputs/gpu/README.md: put that page into benchmarks/. Peers that are not installed are left out
(`pip install lightly-train`). With `--device cpu` it only tries itself.
"""
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from common import parse

from simseg.core import make_accelerator, read_json, read_yaml, repo_root, resolve_path, write_atomic, write_json
from simseg.core import write_yaml
from simseg.run import provenance

OUT = "outputs/gpu"
SIMCLR = ["64:resnet18:256:40", "128:resnet50:128:20", "224:resnet50:128:10"]
UNET = ["64:resnet18:64:40", "128:resnet50:32:20", "224:resnet50:32:10"]
# what the two-hour study of pets asks, on a card: larger pictures and encoder, one seed, two ratios
STUDY = {"name": "gpu-pets", "image_size": 128, "encoder_name": "resnet50", "seeds": [0], "label_ratios": [0.2, 0.05],
         "seeds_at": {}, "recipes": {"augmented": {"augment": True}},
         "encoders": {"scratch": None, "cats_vs_dogs": {"dataset": "cats_vs_dogs"}, "pets": {"dataset": "pets"}}}


def parts(args) -> dict:  # name → (minutes, command)
    "What is run, in this order."
    python = [sys.executable]
    device = ["--device", args.device]
    found = {
        "tests": (3, [*python, "-m", "pytest", "-q", "tests/test_gpu.py"]),
        "views": (2, [*python, "benchmarks/bench_views.py", *device, "--sizes", "64", "128", "224"]),
        "simclr": (6, [*python, "benchmarks/bench_simclr.py", *device, "--rounds", "3", "--settings", *SIMCLR]),
        "unet": (4, [*python, "benchmarks/bench_unet.py", *device, "--rounds", "3", "--settings", *UNET]),
        "overhead": (2, [*python, "benchmarks/bench_overhead.py", *device, "--rounds", "3"]),
    }
    if not args.data_root: return found
    check = ["--data-root", args.data_root, *device, "--seeds", "0", "1", "2"]
    study = [f"{OUT}/study.yaml", "--config", f"data_root={args.data_root}", f"device={args.device}"]
    found["precision"] = (3, [*python, "benchmarks/check_precision.py", *check])
    found["study"] = (5, [*python, "-m", "snakemake", "--cores", "4", "--configfile", *study])
    return found


def run_part(name: str, minutes: float, command: list[str]) -> dict:  # what it came to
    "Run a part, for as long as it may take."
    print(f"{name}: {' '.join(map(str, command))}", flush=True)
    start = time.monotonic()
    log = resolve_path(OUT) / f"{name}.txt"
    with open(log, "w", encoding="utf-8") as said:
        try: code = subprocess.run(command, cwd=repo_root(), stdout=said, stderr=said, timeout=60 * minutes).returncode
        except subprocess.TimeoutExpired: code = None
    ended = {0: "done", None: f"ended after its {minutes} minutes"}.get(code, f"failed with {code}")
    print(f"{name}: {ended}, {time.monotonic() - start:.0f} s; {log}", flush=True)
    return {"ended": ended, "seconds": round(time.monotonic() - start), "command": " ".join(map(str, command)),
            "said": log.read_text(encoding="utf-8")[-4000:]}


def table_of(name: str, began: float) -> list[dict]:
    "The rows that a part has written, if it has."
    if name == "study":
        results = resolve_path(f"outputs/{STUDY['name']}/results.csv")
        return pd.read_csv(results).to_dict("records") if results.is_file() else []
    file = resolve_path("outputs/benchmarks") / f"{name}.json"
    return read_json(file)["rows"] if file.is_file() and file.stat().st_mtime > began else []


def page(report: dict) -> str:
    "The same as Markdown."
    ran_on = ", ".join(f"{name} {value}" for name, value in report["ran_on"].items() if isinstance(value, str))
    lines = ["# On a GPU", "", f"`make gpu`, {report['minutes']} minutes: {ran_on}.", ""]
    for name, part in report["parts"].items():
        lines += [f"## {name}", "", f"`{part['command']}`: {part['ended']}, {part['seconds']} s.", ""]
        if part["rows"]: lines += [pd.DataFrame(part["rows"]).to_markdown(index=False), ""]
        else: lines += ["```", *part["said"].splitlines()[-15:], "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    args = parse(__doc__, data_root="")
    if args.device == "auto": args.device = "cuda"
    if args.device == "cuda" and not torch.cuda.is_available(): sys.exit("torch sees no CUDA GPU here.")
    folder = resolve_path(OUT)
    folder.mkdir(parents=True, exist_ok=True)
    small = read_yaml(repo_root() / "params" / "pets-small.yaml")
    write_yaml(folder / "study.yaml", {**small, **STUDY})
    began = time.time()
    report = {"ran_on": provenance(make_accelerator(args.device)), "parts": {}}
    for name, (minutes, command) in parts(args).items():
        report["parts"][name] = run_part(name, minutes, command)
        report["parts"][name]["rows"] = table_of(name, began)
        report["minutes"] = round((time.time() - began) / 60, 1)
        write_json(folder / "gpu.json", report)  # after each part, so that what ran is kept whatever comes
        write_atomic(Path(folder / "README.md"), lambda path: path.write_text(page(report), encoding="utf-8"))
    print(f"{folder / 'README.md'}")
