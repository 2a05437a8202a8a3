"A run and its folder: what is refused, what is written when, and that a run that was stopped ends as one that was not."
import json
import os
import subprocess
import sys
from collections import namedtuple

import pandas as pd
import pytest
import yaml
from conftest import small
from PIL import Image

from simseg import simclr, unet
from simseg.base import files
from simseg.base.run import read_state
from simseg.simclr import run_simclr
from simseg.images.synthetic import make_synthetic
from simseg.unet import load_model, run_unet

RUNS = {"simclr": run_simclr, "unet": run_unet}
RESULT = {"simclr": "encoder.safetensors", "unet": "model/model.safetensors"}
TOO_FAST = {"simclr": {"optimizer": "adamw", "learning_rate": 1e30}, "unet": {"learning_rate": 1e30}}


def only_json(path) -> dict:
    "A JSON file, in which NaN and Infinity are mistakes."
    def refuse(constant): raise AssertionError(f"{path} holds {constant}, which is no JSON")
    return json.loads(path.read_text(), parse_constant=refuse)


# Another run's folder

def test_another_run_is_refused_with_what_differs(tmp_path):
    run_unet(small("unet", tmp_path, epochs=0))
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run \(seed=0, here seed=1\); .*overwrite=True to replace it"):
        run_unet(small("unet", tmp_path, epochs=0, seed=1))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert read_state(tmp_path)["state"] == "done"


def test_the_same_parameters_on_other_images_are_another_run(tmp_path):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(make_synthetic(8, 32).images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "images" / f"{i}.png")
    params = small("simclr", tmp_path / "run", dataset=str(tmp_path / "images"), max_images=0, batch_size=2, epochs=0)
    run_simclr(params)
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "images" / "0.png")
    with pytest.raises(ValueError, match=r"holds another run \(images \w+, here \w+\)"): run_simclr(params)


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, capsys):
    history = run_unet(small("unet", tmp_path, epochs=1))
    monkeypatch.setattr(unet, "finetune", None)  # which nobody could call
    again = run_unet(small("unet", tmp_path, epochs=1))
    assert "holds this run, finished" in capsys.readouterr().out
    assert [row["epoch"] for row in again] == [row["epoch"] for row in history] == [1]


def test_a_run_that_died_after_its_metrics_is_finished(tmp_path):
    "All that was left to do was to remove its checkpoint and to write that it is done."
    run_unet(small("unet", tmp_path, epochs=1))
    (tmp_path / "checkpoint.pt").touch()
    (tmp_path / "state.json").write_text('{"state": "running"}')
    run_unet(small("unet", tmp_path, epochs=1))
    assert not (tmp_path / "checkpoint.pt").exists()
    state = only_json(tmp_path / "state.json")
    assert (state["state"], state["epoch"], state["epochs"]) == ("done", 1, 1)


@pytest.mark.parametrize("stage", RUNS)
def test_overwriting_clears_what_the_old_run_left(stage, tmp_path):
    "Else the old run's encoder or model would lie beside the parameters of a new one that failed."
    RUNS[stage](small(stage, tmp_path, epochs=0))
    assert (tmp_path / RESULT[stage]).exists()
    with pytest.raises(ValueError, match="is nan"):
        RUNS[stage](small(stage, tmp_path, epochs=1, overwrite=True, **TOO_FAST[stage]))
    for name in (RESULT[stage], "metrics.json", "checkpoint.pt"): assert not (tmp_path / name).exists(), name
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["learning_rate"] == 1e30
    assert read_state(tmp_path)["state"] == "failed"


WAITING_RUN = """
import sys
from conftest import small
from simseg import unet

true_loss = unet.make_loss

def make_loss(*arguments):
    print("training", flush=True)
    sys.stdin.readline()
    return true_loss(*arguments)

unet.make_loss = make_loss
unet.run_unet(small("unet", sys.argv[1], epochs=1))
"""


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    "The first, in a process of its own, waits in its first epoch until the second has been refused."
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", WAITING_RUN, str(tmp_path)]
    first = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "training\n"
        assert read_state(tmp_path)["state"] == "running"
        with pytest.raises(ValueError, match="is in use by another run; wait for it, or take another out_dir"):
            run_unet(small("unet", tmp_path, epochs=1))
        first.communicate("go on\n")
        assert first.returncode == 0
    finally:
        first.kill()
        first.wait()
    assert read_state(tmp_path)["state"] == "done"
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_run_that_died_is_told_from_one_that_runs(tmp_path):
    "Its state.json still says running; nobody holds the lock."
    (tmp_path / "state.json").write_text('{"state": "running"}')
    assert read_state(tmp_path)["state"] == "cut off"


# Before training

@pytest.fixture
def untrained(monkeypatch):
    "Training fails at once, so that what raises before it has come before it."
    def begin(*arguments, **views): raise AssertionError("this was to be refused before training")
    for module, name in ((simclr, "train_epoch"), (unet, "make_loss")): monkeypatch.setattr(module, name, begin)


@pytest.mark.parametrize("stage", RUNS)
def test_params_yaml_is_there_before_training(stage, tmp_path, untrained):
    params = small(stage, tmp_path)
    with pytest.raises(AssertionError): RUNS[stage](params)
    saved = yaml.safe_load((tmp_path / "params.yaml").read_text())
    ran_on = saved.pop("ran_on")
    assert saved == params
    assert isinstance(ran_on["dirty"], bool)
    assert len(ran_on["commit"]) == 40 or ran_on["commit"] == "unknown"
    assert ran_on["images"]


@pytest.mark.parametrize("stage", RUNS)
def test_a_full_disk_is_noticed_before_training(stage, tmp_path, untrained, monkeypatch):
    usage = namedtuple("usage", "total used free")(2_000_000, 1_000_000, 1_000_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match="has 1 MB free, but training this model takes .* MB; make room"):
        RUNS[stage](small(stage, tmp_path))
    assert not (tmp_path / "params.yaml").exists()


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path, untrained):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written, since .*/file is no folder .*; choose another place"):
        run_unet(small("unet", tmp_path / "file" / "run"))


def test_a_run_that_failed_before_it_began_says_so_and_leaves_the_folder_free(tmp_path):
    with pytest.raises(FileNotFoundError): run_unet(small("unet", tmp_path, dataset="no_such_set"))
    assert read_state(tmp_path)["state"] == "failed" and "no_such_set" in read_state(tmp_path)["sentence"]
    run_unet(small("unet", tmp_path, epochs=0))
    with pytest.raises(FileNotFoundError): run_unet(small("unet", tmp_path, dataset="no_such_set"))
    assert read_state(tmp_path)["state"] == "done"  # of the run that the folder holds


# What is written

@pytest.fixture
def umask():
    "Set the process's umask; it is what it was afterwards."
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_umask(mask, mode, tmp_path, umask):
    "A temporary file's own would leave them readable to nobody else."
    umask(mask)
    run_simclr(small("simclr", tmp_path / "simclr", epochs=0))
    run_unet(small("unet", tmp_path / "unet", epochs=0))
    files = ["simclr/encoder.safetensors", "simclr/metrics.json", "simclr/params.yaml", "simclr/history.csv"]
    files += ["unet/model/model.safetensors", "unet/model/config.json", "unet/model/preprocessing.json"]
    modes = {file: oct((tmp_path / file).stat().st_mode & 0o777) for file in files}
    assert modes == dict.fromkeys(files, oct(mode))


def test_metrics_are_json_though_a_figure_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(simclr, "geometry", lambda first, second: {"spread": 1.0, "uniformity": float("nan")})
    run_simclr(small("simclr", tmp_path, epochs=1))
    assert only_json(tmp_path / "metrics.json")["uniformity"] is None


@pytest.mark.parametrize("stage", RUNS)
def test_a_loss_that_is_no_number_ends_the_run_in_one_sentence(stage, tmp_path):
    "And not in scikit-learn's words, which would be asked for the neighbours of features that are none."
    sentence = "The loss of epoch 1 is nan; take a smaller learning_rate, or precision=fp32."
    with pytest.raises(ValueError) as caught: RUNS[stage](small(stage, tmp_path, epochs=2, **TOO_FAST[stage]))
    assert str(caught.value) == sentence
    state = only_json(tmp_path / "state.json")
    assert (state["state"], state["sentence"]) == ("failed", sentence)


def test_losses_go_to_tensorboard(tmp_path):
    run_unet(small("unet", tmp_path, epochs=1, tracker="tensorboard"))
    assert list((tmp_path / "tracker").rglob("events.out.tfevents.*"))


# Stopped, and resumed

THREE_EPOCHS = {
    "simclr": {"epochs": 3},
    "unet": {"epochs": 3, "ema": 0.9, "augment": True, "schedule": "cosine"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "A folder for each stage, in which three epochs ran at once."
    folders = {stage: tmp_path_factory.mktemp(stage) for stage in RUNS}
    for stage, folder in folders.items(): RUNS[stage](small(stage, folder, **THREE_EPOCHS[stage]))
    return folders


def assert_same_run(stage, one, other):
    "Byte for byte, but for the clock."
    for name in (RESULT[stage], "metrics.json"): assert (one / name).read_bytes() == (other / name).read_bytes(), name
    histories = [pd.read_csv(folder / "history.csv").drop(columns="images_per_second") for folder in (one, other)]
    assert histories[0].equals(histories[1])
    assert [read_state(folder)["state"] for folder in (one, other)] == ["done", "done"]


@pytest.mark.parametrize("stage", RUNS)
def test_stopped_a_run_keeps_its_last_whole_epoch_and_goes_on(stage, tmp_path, undisturbed, monkeypatch):
    """After the epoch that was asked for; then by hand, in the second epoch, when all of its steps have been taken and
    none of it is recorded: what is left is the same, and in the end as of a run that nobody stopped."""
    asked, by_hand = tmp_path / "asked", tmp_path / "by hand"
    params = small(stage, asked, **THREE_EPOCHS[stage], stop_after=1)
    assert len(RUNS[stage](params)) == 1
    assert read_state(asked)["state"] == "stopped"
    assert not (asked / "metrics.json").exists()

    module, name = {"simclr": (simclr, "train_epoch"), "unet": (unet, "count_images")}[stage]
    true_function = getattr(module, name)
    calls = []

    def function(*arguments, **views):
        found = true_function(*arguments, **views)
        calls.append(found)
        if len(calls) == 2: raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, name, function)
        assert len(RUNS[stage](small(stage, by_hand, **THREE_EPOCHS[stage]))) == 1
    assert read_state(by_hand)["state"] == "stopped"
    assert len(pd.read_csv(by_hand / "history.csv")) == 1
    assert (by_hand / RESULT[stage]).read_bytes() == (asked / RESULT[stage]).read_bytes()
    if stage == "unet": load_model(by_hand / "model")

    assert len(RUNS[stage]({**params, "stop_after": 2})) == 3
    assert len(RUNS[stage](small(stage, by_hand, **THREE_EPOCHS[stage]))) == 3
    for folder in (asked, by_hand): assert_same_run(stage, folder, undisturbed[stage])


def test_stopped_in_its_first_epoch_a_run_has_learnt_nothing(tmp_path, monkeypatch):
    def count_images(*arguments): raise KeyboardInterrupt
    monkeypatch.setattr(unet, "count_images", count_images)
    with pytest.raises(KeyboardInterrupt): run_unet(small("unet", tmp_path))
    assert read_state(tmp_path)["state"] == "stopped"
    assert not (tmp_path / "model").exists()
