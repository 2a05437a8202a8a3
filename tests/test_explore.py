"What tools/explore shows of files that are missing, not done, or still growing."
import pytest
import torch
from PIL import Image

from simseg.base.files import resolve_path, write_yaml
from simseg.tools.explore import explore_data, explore_neighbours, explore_predictions, explore_views
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
    "Nothing is trained to have something to show."
    for explore, what in [(explore_predictions, "evaluated models"), (explore_neighbours, "pretrained encoder")]:
        with pytest.raises(ValueError, match=f"{FILE} has no {what} yet; run one first: snakemake .*{FILE}"):
            explore(FILE)
        with pytest.raises(ValueError, match=f"No study has any {what} yet; run one first: snakemake"): explore()


def test_widgets_begin_with_a_study_that_is_ready(begun, workplace):
    "Not with the first there is, nor with one whose file cannot be read; a file that was asked for is read or refused."
    (workplace / "outputs" / "aaa").mkdir()
    (workplace / "outputs" / "aaa" / "study.yaml").write_text("encoders: [")
    with pytest.raises(ValueError, match="a bracket is not closed"): explore_neighbours("outputs/aaa/study.yaml")
    folder = Run(begun, "simclr", "animals").out_dir
    save_encoder(make_encoder("resnet18")[0], resolve_path(folder) / "encoder.safetensors")
    assert explore_neighbours().controls["run"].value == folder


def test_an_encoder_is_looked_at_as_soon_as_there_is_one(begun):
    "Also one whose run goes on; opened anew, the widget shows what it has learnt since."
    for seed in (1, 2):
        torch.manual_seed(seed)
        encoder = resolve_path(Run(begun, "simclr", "animals").out_dir) / "encoder.safetensors"
        save_encoder(make_encoder("resnet18")[0], encoder)
        neighbours = explore_neighbours(FILE)
        assert "its 6 nearest by cosine similarity" in neighbours.view.value
        if seed == 1: before = neighbours.picture
    assert neighbours.picture != before


def test_what_cannot_be_shown_is_said_in_a_sentence(begun):
    with pytest.raises(FileNotFoundError, match="has no folder cifar10"): explore_data("cifar10", data_root="/nowhere")
    data = explore_data()
    assert "<img alt='synthetic: 512 images" in data.view.value
    data.controls["part"].value = "near-duplicates"
    assert "<p role='alert'>There are no images in the part" in data.view.value


def test_sliders_go_over_a_small_data_set(tmp_path):
    folder = tmp_path / "few"  # in a folder of its own, since what lies beside a folder says what it is
    folder.mkdir()
    for i in range(3): Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(folder / f"{i}.png")
    for name, (explore, last) in {"image": (explore_views, 2), "page": (explore_data, 0)}.items():
        explorer = explore(str(folder))
        assert explorer.controls[name].max == last
        explorer.controls[name].value = last
        assert "<img alt=" in explorer.view.value
