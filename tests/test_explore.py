"What tools/explore shows of files that are missing, not done, or still growing."
import pytest
import torch
from PIL import Image

from simseg.base.files import resolve_path, write_yaml
from simseg.tools.explore import explore_data, explore_embedding, explore_neighbours, explore_predictions
from simseg.tools.explore import explore_temperature, explore_views
from simseg.study.grid import Run
from simseg.study.files import check_study
from simseg.learning.encoders import make_encoder, save_encoder

STUDY = {
    "name": "begun", "image_size": 32, "label_ratios": [0.8, 0.2], "seeds": [0], "seeds_at": {0.2: [0, 1]},
    "encoders": {"scratch": None, "animals": {"dataset": "synthetic"}},
    "recipes": {"frozen": {"freeze_encoder": True, "encoders": ["animals"], "label_ratios": [0.2]}},
    "simclr": {"epochs": 3}, "unet": {"dataset": "synthetic", "epochs": 4},
}
FILE = "outputs/begun/study.yaml"


@pytest.fixture
def begun(workplace):
    "A study of which nothing has run yet."
    study = check_study(STUDY)
    write_yaml(workplace / FILE, study)
    return study


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
    write_yaml(workplace / "outputs" / "aaa" / "study.yaml", {**begun, "name": "aaa"})
    write_yaml(workplace / "outputs" / "abc" / "study.yaml", {"name": "abc"})
    assert explore_neighbours().controls["file"].value == "outputs/aaa/study.yaml"
    encoder = resolve_path(Run(begun, "simclr", "animals").out_dir) / "encoder.safetensors"
    save_encoder(make_encoder("resnet18")[0], encoder)
    assert explore_neighbours().controls["file"].value == FILE
    assert explore_neighbours("outputs/aaa/study.yaml").controls["file"].value == "outputs/aaa/study.yaml"


def test_an_encoder_is_looked_at_as_soon_as_there_is_one(begun):
    "Also one whose run goes on; and again when its file has changed."
    folder = Run(begun, "simclr", "animals").out_dir
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
