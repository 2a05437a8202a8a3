"What simseg.explore shows of files that are not there, not done, or still growing."
import asyncio

import pytest
import torch
from filelock import FileLock
from PIL import Image

from simseg.core import resolve_path, write_csv, write_json, write_yaml
from simseg.explore import (draw_study, explore_data, explore_embedding, explore_neighbours, explore_predictions,
                            explore_study, explore_temperature, explore_views, first_study)
from simseg.study import check_study, run_dir, simclr_params, study_files, study_progress
from simseg.transfer import make_encoder, save_encoder

STUDY = {
    "name": "begun", "image_size": 32, "label_ratios": [0.8, 0.2], "seeds": [0], "seeds_at": {0.2: [0, 1]},
    "encoders": {"scratch": None, "animals": {"dataset": "synthetic"}},
    "recipes": {"frozen": {"freeze_encoder": True, "encoders": ["animals"], "label_ratios": [0.2]}},
    "simclr": {"epochs": 3}, "unet": {"dataset": "synthetic", "epochs": 4},
}
FILE = "outputs/begun/study.yaml"


def write_history(folder, losses):
    "A history of these validation losses."
    rows = [{"epoch": i, "loss": 0.5, "val_loss": loss, "val_iou": 0.5} for i, loss in enumerate(losses, 1)]
    write_csv(folder / "history.csv", rows)


@pytest.fixture
def begun(workplace):
    "A study whose first pretraining is done, and whose first cell is running and has had two epochs of four."
    study = check_study(STUDY)
    write_yaml(workplace / FILE, study)
    pretraining = workplace / run_dir(study, "simclr", "animals", 0)
    write_history(pretraining, [4.0, 3.0, 2.0])
    write_json(pretraining / "metrics.json", {"loss": 2, "n_train": 9})
    write_json(pretraining / "state.json", {"state": "done", "stage": "simclr"})
    write_yaml(pretraining / "params.yaml", {**simclr_params(study, "animals", 0), "ran_on": {}})
    cell = workplace / run_dir(study, "unet", "scratch", 0, 0.8)
    write_history(cell, [0.5, 0.4])
    write_json(cell / "state.json", {"state": "running", "epoch": 2, "epochs": 4})
    with FileLock(cell / ".lock"): yield study, cell  # held by a run that is alive


def test_a_study_while_it_runs(begun):
    study, _ = begun
    table = study_progress(study).set_index(["stage", "arm", "labelled", "seed"])
    assert table["state"].value_counts().to_dict() == {"waiting": 8, "trained": 1, "epoch 2 of 4": 1}
    assert table.loc[("unet", "scratch", "80%", 0), "val_loss"] == pytest.approx(0.4)
    explorer = explore_study(FILE)
    for words in ("of 10 runs 8 waiting", "1 trained", "1 running"): assert words in explorer.view.value
    assert explorer.controls["ratio"].options == (("20%", 0.2), ("80%", 0.8))
    assert FILE in study_files()
    assert draw_study(study, 0.2).axes[2].get_title() == "0 of 8 cells"


async def until(condition, seconds: float = 300):
    "Wait for a condition; that long only where it never comes true."
    async def wait():
        while not condition(): await asyncio.sleep(0.02)
    await asyncio.wait_for(wait(), seconds)


def test_following_reads_the_files_again(begun):
    "A box to tick, and no button to press: the picture follows the files until the box is cleared."
    _, cell = begun

    async def follow():
        explorer = explore_study(FILE, seconds=0.05)
        box = explorer.children[0].children[-1]
        box.value = True
        write_history(cell, [0.5, 0.4, 0.3])
        await until(lambda: "epoch 3 of 4" in explorer.view.value)
        box.value = False
        await until(explorer.task.done)

    asyncio.run(follow())


def test_a_study_with_nothing_to_show_yet_is_said_to_have_none(begun):
    "Nothing is trained to have something to show, and the controls are there for the next study."
    for explore, what in [(explore_predictions, "evaluated models"), (explore_temperature, "pretrained encoder"),
                          (explore_embedding, "pretrained encoder"), (explore_neighbours, "pretrained encoder")]:
        explorer = explore()  # the one study there is
        assert explorer.controls["file"].value == FILE
        assert "role='alert'" in explorer.view.value
        assert f"The study begun has no {what} yet; run it first: snakemake" in explorer.view.value


def test_widgets_begin_with_a_study_that_is_ready(begun, workplace):
    "Not with the first there is, nor with one whose file cannot be read; unless that one was asked for."
    study, _ = begun
    write_yaml(workplace / "outputs" / "aaa" / "study.yaml", {**study, "name": "aaa"})
    write_yaml(workplace / "outputs" / "abc" / "study.yaml", {"name": "abc"})
    assert first_study("", lambda study: study["name"] == "begun") == FILE
    assert first_study("", lambda study: False) == "outputs/aaa/study.yaml"
    assert first_study("outputs/aaa/study.yaml", lambda study: study["name"] == "begun") == "outputs/aaa/study.yaml"


def test_an_encoder_is_looked_at_as_soon_as_there_is_one(begun):
    "Also one whose run goes on; and again when its file has changed."
    study, _ = begun
    folder = run_dir(study, "simclr", "animals", 0)
    neighbours = explore_neighbours(FILE)
    assert neighbours.controls["run"].options == (("none yet", ""),)
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_encoder(make_encoder("resnet18")[0], resolve_path(folder) / "encoder.safetensors")
        before = neighbours.view.value
        neighbours.controls["file"].notify_change({"name": "value", "type": "change", "new": FILE})
        assert neighbours.controls["run"].value == folder
        assert "its 6 nearest by cosine similarity" in neighbours.view.value and neighbours.view.value != before


def test_what_cannot_be_shown_is_said_in_a_sentence(begun):
    missing = explore_data("cifar10", data_root="/nowhere")
    assert "role='alert'" in missing.view.value
    assert "has no folder cifar10" in missing.view.value
    missing.controls["dataset"].value = "synthetic"
    assert "<img alt='synthetic: 512 images" in missing.view.value
    missing.controls["part"].value = "near-duplicates"
    assert "There are no images in the part" in missing.view.value


def test_a_smaller_data_set_than_the_slider_was_at(tmp_path):
    folder = tmp_path / "few"  # in a folder of its own, since what lies beside a folder says what it is
    folder.mkdir()
    for i in range(3): Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / f"{i}.png")
    places = {"image": (explore_views, 2), "page": (explore_data, 0)}
    for name, (explore, last) in places.items():
        explorer = explore(str(folder))
        place = explorer.controls[name]
        explorer.controls["dataset"].value = "synthetic"
        place.value = place.max
        explorer.controls["dataset"].value = str(folder)
        assert place.value == place.max == last
        assert "<img alt=" in explorer.view.value
