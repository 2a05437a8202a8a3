"""A study that is killed again and again ends as if nothing had happened, and one with failing cells with its report.

Killed with SIGKILL, Snakemake, papermill and kernels at once, at random moments; started again with the same command
each time. The results must be those of a study that nobody disturbed, byte for byte, and no run may train an epoch
again that it has finished. Takes minutes, so it is part of `make test-slow`.
"""
import os
import random
import re
import subprocess
import time

import pandas as pd
import psutil
import pytest
from conftest import BIN, ROOT, TWO_ENCODERS, results

pytestmark = pytest.mark.slow
KILLS = 10
STUDY = TWO_ENCODERS + """\
recipes: {{averaged: {{ema: 0.9, augment: true, schedule: cosine, encoders: [animals]}}}}
simclr: {{batch_size: 16, epochs: 8}}
unet: {{dataset: synthetic, max_images: 96, batch_size: 8, epochs: 8}}
"""
MARK = {"SIMSEG_TEST_RESUME": str(os.getpid())}  # in the environment of every process of the tree


def start(file):
    "The one command."
    environment = {**os.environ, **MARK, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [BIN / "snakemake", "--cores", "2", "--configfile", file]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def marked() -> list[psutil.Process]:
    "Every process of the tree that lives, kernels in sessions of their own too."
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and MARK.items() <= process.environ().items(): found.append(process)
        except psutil.Error: continue  # it has ended meanwhile, or is not ours
    return found


def kill(process):
    "End the whole tree, so that nobody gets to tidy up."
    while marked():
        for other in marked():
            try: other.kill()
            except psutil.NoSuchProcess: pass
        process.poll()
    process.communicate()


def collect_logs(logs_of: dict, folder):
    "Add each training's log to those of its earlier calls, unless it is the last of them."
    for log in folder.glob("*/**/log.txt"):
        text = log.read_text()
        known = logs_of.setdefault(str(log.parent.relative_to(folder)), [])
        if not known or known[-1] != text: known.append(text)


def test_ten_kills_leave_no_trace(make_study):
    file, undisturbed = make_study("undisturbed", STUDY)
    began = time.monotonic()
    whole = start(file)
    said, _ = whole.communicate()
    assert whole.returncode == 0, said[-3000:]
    longest = time.monotonic() - began
    seed = random.SystemRandom().randrange(1000)
    print(f"kills drawn with seed {seed}")
    chance = random.Random(seed)
    file, killed = make_study("killed", STUDY)
    logs_of = {}
    for _ in range(KILLS):
        process = start(file)
        time.sleep(chance.uniform(0, longest / 2))
        kill(process)
        collect_logs(logs_of, killed)
    process = start(file)
    said, _ = process.communicate()
    assert process.returncode == 0, said[-3000:]
    collect_logs(logs_of, killed)
    assert results(killed) == results(undisturbed) and len(results(killed)) > 15
    for run, logs in logs_of.items():
        epochs = [int(epoch) for log in logs for epoch in re.findall(r"^epoch (\d+)/", log, re.M)]
        assert epochs == sorted(set(epochs)), f"{run} trained an epoch again: {epochs}"
    assert any(len(logs) > 1 for logs in logs_of.values()), "no kill hit a training"


LARGE = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.8, 0.5, 0.2]
seeds: [0, 1, 2, 3, 4, 5]
encoders: {{scratch: , animals: {{dataset: synthetic}}}}
recipes: {{hot: {{learning_rate: 1.0e+30, epochs: 3, encoders: [scratch], label_ratios: [0.2]}}}}
seeds_at: {{0.2: [0, 1]}}
simclr: {{max_images: 64, batch_size: 16, epochs: 1}}
unet: {{dataset: synthetic, max_images: 64, epochs: 1}}
"""


def test_thirty_cells_of_which_two_fail(make_study):
    "Killed twice, started again: everything else is finished, and what failed is said."
    file, out = make_study("large", LARGE)
    for wanted in (8, 20):  # runs that are finished before the next kill
        process = start(file)
        while process.poll() is None and len(list(out.glob("**/results.sha256"))) < wanted: time.sleep(0.2)
        assert process.poll() is None, "it ended before it could be killed"
        kill(process)
    process = start(file)
    said, _ = process.communicate()
    assert process.returncode == 1
    assert len(said.splitlines()) < 120
    failed = [line for line in said.splitlines() if "FAILED" in line]
    assert len(failed) == 2 and all("scratch-hot" in line for line in failed), failed
    assert "28 of 30 cells are evaluated" in said
    sentence = r"failed: unet scratch-hot 20% seed 0 and 1 more: The loss of epoch 2 is \S+; take a smaller learning"
    assert re.search(sentence, said)
    assert re.search(sentence, (out / "report.html").read_text(encoding="utf-8"))
    assert len(pd.read_csv(out / "results.csv")) == 28
