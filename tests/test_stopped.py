"Stopped by hand, by Ctrl-C as a terminal sends it or by a scheduler: a sentence, exit code 130, and it goes on."
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import BIN, ROOT, small, with_our_commands

from simseg.base.files import read_json
from simseg.base.run import read_state
from simseg.unet import run_unet

SAID = "Stopped; the same command goes on."
PAPERMILL = [BIN / "papermill", "--engine", "simseg", "--kernel", "python3", "--no-progress-bar"]
UNSAID = ("FAILED", "Aborted", "Error 1", "Traceback", "error")
STUDY = """
name: {name}
image_size: 32
encoder_name: resnet18
device: cpu
precision: fp32
label_ratios: [0.5]
seeds: [0]
encoders: {{scratch: }}
unet: {{dataset: synthetic, max_images: 64, batch_size: 16, epochs: EPOCHS}}
"""


def begin(command) -> subprocess.Popen:
    "Start a command in a process group of its own, as a terminal does."
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # a shell in the background takes Ctrl-C away from what it starts
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=with_our_commands(), start_new_session=True, **pipes)


def wait_for(process: subprocess.Popen, there):
    "Wait until something is there, for as long as the process runs."
    while not there():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)


def in_training(folder) -> bool:
    return (folder / "state.json").exists() and read_state(folder).get("epoch", 0) > 0


def stop(process: subprocess.Popen, whom: str, how: signal.Signals) -> str:  # all that it said
    if whom == "group": os.killpg(process.pid, how)
    else: process.send_signal(how)
    said, _ = process.communicate()
    return said


def snakemake(file, *more):
    return [BIN / "snakemake", "--cores", "2", "--configfile", file, *more]


def make(file):
    "`make study`, whose environment is there already."
    text = f"study:\n\t@{BIN}/snakemake --cores 2 --configfile {file}\n"
    recipe = file.with_suffix(".mk")
    recipe.write_text(text)
    return ["make", "-f", recipe, "study"]


# A study is slow to stop and resume: each of its runs is a process that imports torch.
@pytest.mark.parametrize("command, whom, how", [
    (snakemake, "group", signal.SIGINT), pytest.param(snakemake, "it", signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(snakemake, "it", signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(make, "group", signal.SIGINT, marks=pytest.mark.slow)])
def test_a_study_is_stopped_and_goes_on(command, whom, how, make_study):
    file, folder = make_study(f"stopped-{command.__name__}-{whom}-{how.name}", STUDY)
    text = file.read_text()
    file.write_text(text.replace("EPOCHS", "300"))
    study = begin(command(file))
    unet = folder / "unet" / "scratch" / "ratio0.5" / "seed0"
    wait_for(study, lambda: in_training(unet))
    said = stop(study, whom, how)
    assert said.count(SAID) == 1 and not any(word in said for word in UNSAID), said
    assert study.returncode == (130 if command is snakemake else -signal.SIGINT)
    assert read_state(unet)["state"] == "stopped" and (unet / "model").is_dir()
    done = read_state(unet)["epoch"]
    if command is make: return
    started = begin(command(file))
    wait_for(started, lambda: read_state(unet).get("epoch", 0) > done)
    assert read_json(unet / "state.json")["state"] == "running"
    stop(started, whom, how)
    assert read_state(unet)["epoch"] > done


@pytest.mark.parametrize("whom, how", [
    ("it", signal.SIGTERM), pytest.param("group", signal.SIGINT, marks=pytest.mark.slow),
    pytest.param("it", signal.SIGINT, marks=pytest.mark.slow)])
def test_a_batch_run_is_stopped_and_goes_on(whom, how, tmp_path):
    out = tmp_path / "run"
    command = [*PAPERMILL, "nbs/2_simclr.ipynb", tmp_path / "run.ipynb"]
    for name, value in {"epochs": 500, "batch_size": 16, "max_images": 64, "device": "cpu", "out_dir": out}.items():
        command += ["-p", name, str(value)]
    run = begin(command)
    wait_for(run, lambda: in_training(out))
    kernel, = psutil.Process(run.pid).children()
    said = stop(run, whom, how)
    assert run.returncode == 130
    assert said.count(SAID) == 1 and "Stopped after epoch" in said and not any(word in said for word in UNSAID), said
    assert not kernel.is_running()
    assert read_state(out)["state"] == "stopped" and (out / "encoder.safetensors").is_file()


def test_a_batch_run_that_has_not_begun_is_stopped_at_once(tmp_path):
    "Its kernel is interrupted while it imports, or waited for until it listens."
    out = tmp_path / "run"
    run = begin([*PAPERMILL, "nbs/3_unet.ipynb", tmp_path / "run.ipynb", "-p", "epochs", "500", "-p", "out_dir", out])
    wait_for(run, lambda: psutil.Process(run.pid).children())
    said = stop(run, "group", signal.SIGINT)
    assert run.returncode == 130 and said.count(SAID) == 1 and "Traceback" not in said, said


def test_an_interrupt_while_the_first_one_saves_loses_nothing(tmp_path):
    "As of somebody who presses Ctrl-C until something happens."
    command = f"from simseg.unet import run_unet; run_unet({small('unet', tmp_path, epochs=500)!r})"
    run = begin([sys.executable, "-c", command])
    wait_for(run, lambda: in_training(tmp_path))
    while run.poll() is None and read_state(tmp_path)["state"] != "stopped":
        run.send_signal(signal.SIGINT)
        time.sleep(0.005)
    said, _ = run.communicate()
    assert read_state(tmp_path)["state"] == "stopped" and "Stopped after epoch" in said, said
    run_unet(small("unet", tmp_path, epochs=500, stop_after=1))


WAITING = "import sys; from simseg.tools import {module}; " \
          "{module}.{name} = lambda *_, **__: print('began', flush=True) or " \
          "__import__('time').sleep(600); from simseg.tools.command import main; main(sys.argv[1:])"


@pytest.mark.parametrize("module, name, arguments", [
    ("predict", "predict_files", ["predict", "photo.jpg", "--model", "."]),
    ("command", "study_progress", ["status", "params/quickstart.yaml"]),
    ("command", "make_report", ["report", "params/quickstart.yaml"]),
    ("command", "look", ["look", "."]),
])
def test_a_command_is_stopped_in_a_sentence(module, name, arguments, tmp_path):
    (tmp_path / "config.json").touch()
    arguments = [str(tmp_path) if part == "." else part for part in arguments]
    command = begin([sys.executable, "-c", WAITING.format(module=module, name=name), *arguments])
    assert "began" in command.stdout.readline()
    said = stop(command, "group", signal.SIGINT)
    assert command.returncode == 130 and SAID in said and "Traceback" not in said, said
