"What simseg.explore shows of files that are not there, not done, or still growing."
import asyncio
import os
import shutil

import pytest
from conftest import ROOT
from PIL import Image

from simseg.core import write_csv, write_json, write_yaml
from simseg.explore import draw_study, explore_data, explore_predictions, explore_study, explore_views, study_files, study_progress, study_runs
from simseg.study import check_study, run_dir

SETTINGS = {"image_size": 32, "label_ratios": [0.8, 0.2], "seeds": [0], "seeds_at": {0.2: [0, 1]}, "encoders": {"scratch": None, "animals": {"dataset": "synthetic"}},
            "recipes": {"frozen": {"freeze_encoder": True, "encoders": ["animals"], "label_ratios": [0.2]}}, "simclr": {"epochs": 3}, "unet": {"dataset": "synthetic", "epochs": 4}}


@pytest.fixture
def running():
    "A study whose first pretraining is done and whose first cell has had two epochs of four."
    study = check_study({"name": f"test-explore-{os.getpid()}", **SETTINGS})
    folder = ROOT / "outputs" / study["name"]
    write_yaml(folder / "study.yaml", study)
    pretraining, cell = ROOT / run_dir(study, "simclr", "animals", 0), ROOT / run_dir(study, "unet", "scratch", 0, 0.8)
    write_csv(pretraining / "history.csv", [{"epoch": e, "loss": 5 - e, "val_loss": 5 - e} for e in (1, 2, 3)])
    write_json(pretraining / "metrics.json", {"loss": 2})
    write_csv(cell / "history.csv", [{"epoch": e, "loss": 0.5, "val_loss": 0.6 - 0.1 * e, "val_iou": 0.5} for e in (1, 2)])
    yield study, f"outputs/{study['name']}/study.yaml", cell
    shutil.rmtree(folder)


def test_a_study_while_it_runs(running):
    study, file, cell = running
    table = study_progress(study_runs(study)).set_index(["stage", "arm", "labelled", "seed"])
    assert table["state"].value_counts().to_dict() == {"waiting": 8, "trained": 1, "epoch 2 of 4": 1}
    assert table.loc[("unet", "scratch", "80%", 0), "val_loss"] == pytest.approx(0.4)
    explorer = explore_study(file)
    assert "of 10 runs 8 waiting" in explorer.view.value and "1 trained" in explorer.view.value and "1 running" in explorer.view.value
    assert explorer.controls["ratio"].options == (("20%", 0.2), ("80%", 0.8)) and file in study_files()
    assert "0 of 8 cells" == draw_study(study, study_runs(study), 0.2).axes[2].get_title()


def test_following_reads_the_files_again(running):
    _, file, cell = running

    async def follow():
        explorer = explore_study(file, seconds=0.05)
        before, box = explorer.view.value, explorer.children[0].children[-1]
        box.value = True
        write_csv(cell / "history.csv", [{"epoch": e, "loss": 0.5, "val_loss": 0.3, "val_iou": 0.5} for e in (1, 2, 3)])
        for _ in range(600):
            await asyncio.sleep(0.1)
            if explorer.view.value != before: break
        box.value = False
        return explorer.view.value

    assert "epoch 3 of 4" in asyncio.run(follow())


def test_what_cannot_be_shown_is_said_in_a_sentence(running):
    _, file, _ = running
    with pytest.raises(ValueError, match="has no evaluated models yet; run it first"): explore_predictions(file)
    missing = explore_data("cifar10", data_root="/nowhere")
    assert "role='alert'" in missing.view.value and "has no folder cifar10" in missing.view.value
    missing.controls["dataset"].value = "synthetic"
    assert "<img alt='synthetic: 512 images" in missing.view.value
    missing.controls["part"].value = "near-duplicates"
    assert "There are no images in the part" in missing.view.value


def test_a_smaller_data_set_than_the_slider_was_at(tmp_path):
    for i in range(3): Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    for explorer, place in ((explore_views(str(tmp_path)), "image"), (explore_data(str(tmp_path)), "page")):
        explorer.controls["dataset"].value = "synthetic"
        explorer.controls[place].value = explorer.controls[place].max
        explorer.controls["dataset"].value = str(tmp_path)
        assert explorer.controls[place].value == explorer.controls[place].max == (2 if place == "image" else 0)
        assert "<img alt=" in explorer.view.value
