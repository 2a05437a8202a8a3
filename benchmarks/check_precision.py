"""Does bfloat16 move a result? The same small study (SimCLR, fine-tuning, test set) in fp32 and in bf16, each with
several seeds.

    python benchmarks/check_precision.py --data-root /path/to/data

Runs of one seed share initial weights, order and views, so the difference is taken seed by seed. The two agree in a
metric where the 95 % interval of that difference over the seeds holds zero; with few seeds it is wide, and says so.
Each run is kept under the commit it was made by, and one that is there is not repeated: processes can share the seeds,
and a call with all of them then makes the table.
"""
import tempfile
from pathlib import Path

import pandas as pd
from common import finish, parse

from simseg.base.files import read_json, resolve_path, write_json
from simseg.base.parameters import make_accelerator, parameter_defaults
from simseg.evaluation import run_evaluation
from simseg.base.run import provenance
from simseg.simclr import run_simclr
from simseg.evidence.statistics import block_interval
from simseg.unet import run_unet

METRICS = ["nt_xent", "iou", "f1", "bce_loss", "accuracy"]


def params_of(stage: str, args, precision: str, seed: int, **own) -> dict:
    "A stage's parameters: of what all stages share, what it has."
    defaults = parameter_defaults(stage)
    shared = {
        "dataset": args.dataset, "data_root": args.data_root, "image_size": args.size, "encoder_name": args.encoder,
        "precision": precision, "device": args.device, "seed": seed,
        "threads": args.threads,
    }
    return {**defaults, **{name: value for name, value in shared.items() if name in defaults}, **own}


def one_run(args, precision: str, seed: int, folder: str) -> dict:  # metric → value
    "Pretrain, fine-tune, evaluate."
    how = (args, precision, seed)
    optimizer = {"batch_size": 128, "optimizer": "adamw", "learning_rate": 1e-3}
    history = run_simclr(params_of("simclr", *how, max_images=args.images, epochs=args.epochs,
                                   out_dir=f"{folder}/simclr", **optimizer))
    run_unet(params_of("unet", *how, encoder=f"{folder}/simclr", label_ratio=0.2, epochs=args.epochs + 2,
                       out_dir=f"{folder}/unet"))
    metrics, _ = run_evaluation(params_of("evaluation", *how, model_dir=f"{folder}/unet/model",
                                          out_dir=f"{folder}/evaluation"))
    return {"nt_xent": history[-1]["val_loss"], **{name: metrics[name] for name in METRICS[1:]}}


def kept_run(args, precision: str, seed: int, kept: Path) -> dict:
    "The same, from its file where it has been run before."
    file = kept / f"{precision}-seed{seed}.json"
    if not file.exists():
        with tempfile.TemporaryDirectory() as folder: found = one_run(args, precision, seed, folder)
        write_json(file, {"precision": precision, "seed": seed, **found})
    return read_json(file)


def compare(runs: pd.DataFrame, metric: str) -> dict:
    "Means and standard deviations over the seeds, and the mean difference with its interval."
    values = runs.pivot(index="seed", columns="precision", values=metric)
    difference = values["bf16"] - values["fp32"]
    low, high, _ = block_interval(difference)
    row = {"metric": metric}
    for precision in ("fp32", "bf16"):
        row[precision] = f"{values[precision].mean():.4f} ± {values[precision].std():.4f}"
    row |= {"difference": f"{difference.mean():+.4f}", "low": f"{low:+.4f}", "high": f"{high:+.4f}"}
    return {**row, "agree": bool(low <= 0 <= high)}


if __name__ == "__main__":
    args = parse(__doc__, dataset="pets", data_root="", size=64, encoder="resnet18", images=3000, epochs=3,
                 seeds=[0, 1, 2])
    name = f"{args.dataset}-{args.size}px-{args.encoder}-{args.images}x{args.epochs}-{args.device}"
    commit = provenance(make_accelerator("cpu"))["commit"]
    kept = resolve_path("outputs/benchmarks/precision") / commit[:12] / name
    runs = []
    for seed in args.seeds:
        for precision in ("fp32", "bf16"):
            runs.append(kept_run(args, precision, seed, kept))
            print(runs[-1], flush=True)
    finish("precision", [compare(pd.DataFrame(runs), metric) for metric in METRICS], args, runs=runs)
