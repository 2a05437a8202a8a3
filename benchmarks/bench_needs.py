"""How much memory and time does a run take? Peak memory of a pretraining and of a fine-tuning of four steps, a process
each, and their speed; beside it what simseg.study asks of a cluster for them (`mem_mb`).

    python benchmarks/bench_needs.py --threads 1
"""
import json
import os
import subprocess
import sys
import tempfile

from common import finish, parse, read_setting

from simseg.core import parameter_defaults
from simseg.study import memory_of

SETTINGS = [f"{stage}:{encoder}:{size}:{batch}" for stage, encoder, size, batch in [
    ("simclr", "resnet18", 32, 128), ("simclr", "resnet18", 64, 128), ("simclr", "resnet18", 128, 128),
    ("simclr", "resnet34", 64, 128), ("simclr", "resnet50", 64, 128), ("simclr", "resnet50", 128, 64),
    ("simclr", "resnet101", 64, 64), ("simclr", "resnet152", 64, 64),
    ("unet", "resnet18", 64, 32), ("unet", "resnet18", 128, 32), ("unet", "resnet18", 224, 32),
    ("unet", "resnet34", 64, 32), ("unet", "resnet50", 64, 32), ("unet", "resnet50", 128, 32),
    ("unet", "resnet101", 64, 32), ("unet", "resnet152", 64, 32),
]]
RUN = "import sys, json; from simseg.{stage} import run_{stage}; print(run_{stage}(json.loads(sys.argv[1]))[-1])"


def measure(stage: str, params: dict) -> tuple[int, float]:  # MB at most, images per second
    "One run, in a process of its own."
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        asked = json.dumps({**params, "out_dir": folder})
        process = subprocess.Popen([sys.executable, "-c", RUN.format(stage=stage), asked], stdout=said)
        _, status, used = os.wait4(process.pid, 0)
        if status: sys.exit(f"{stage} failed: {asked}")
        said.seek(0)
        row = said.read().splitlines()[-1]
    return used.ru_maxrss // 1024, float(row.partition("'images_per_second': ")[2].rstrip("}"))


if __name__ == "__main__":
    args = parse(__doc__, settings=SETTINGS)
    rows = []
    for setting in args.settings:
        stage, encoder, size, batch = read_setting(setting)
        params = {**parameter_defaults(stage), "encoder_name": encoder, "image_size": size, "batch_size": batch}
        params |= {"epochs": 1, "device": args.device, "threads": args.threads}
        # of a labelled set a fifth is tested on, and of the rest a tenth is held out
        params |= {"max_images": 4 * batch if stage == "simclr" else 6 * batch}
        peak, speed = measure(stage, params)
        row = {"stage": stage, "encoder": encoder, "pixels": size, "batch": batch}
        rows.append({**row, "peak MB": peak, "mem_mb": memory_of(params), "images/s": f"{speed:.3g}"})
        print(*rows[-1].values(), flush=True)
    finish("needs", rows, args)
