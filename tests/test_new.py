"A new study: settings from what is there, refusals, and a file that is whole and never written over another."
import numpy as np
import pytest
from PIL import Image

from simseg.images.data import ImageData
from simseg.images.description import Description
from simseg.images.synthetic import make_synthetic
from simseg.study.files import check_study, read_study
from simseg.study.grid import Run, study_runs
from simseg.study.lines import Pace, count_rows, read_paces, run_seconds, time_left
from simseg.tools import new
from simseg.tools.command import main

PACES = {"simclr": Pace(0.01, 0.5), "unet": Pace(0.02, 0.5)}


def of_size(n: int, labelled: bool, tiles: int = 1) -> ImageData:
    "Images of one pixel, which differ by their ids."
    pixels = np.zeros((n * tiles, 3, 1, 1), np.uint8)
    names = [str(i // tiles) for i in range(n * tiles)]
    thumbnails = np.random.default_rng(int(labelled)).integers(0, 256, (n * tiles, 16, 16), np.uint8)
    ids = [f"{int(labelled)}{int(name):015x}" for name in names]
    return ImageData(pixels, pixels[:, 0] if labelled else None, np.zeros(len(names), np.int64), names, None,
                     ids=ids, thumbnails=thumbnails)


@pytest.fixture
def derive(monkeypatch):
    "Derive a study of so many photos and masks, without files."
    def derive(photos: int, masks: int, **options) -> dict:
        monkeypatch.setattr(new, "describe", lambda labelled: None)
        monkeypatch.setattr(new, "load_unlabelled", lambda *_: of_size(photos, False))
        monkeypatch.setattr(new, "load_pairs", lambda *_: of_size(masks, True))
        return new.derive_study("mine", "/photos", "/labelled", **options)

    return derive


SIZES = [(40, 12), (200, 60), (3000, 600), (100_000, 7000)]


@pytest.mark.parametrize("photos, masks", SIZES)
def test_steps_are_enough_and_not_endless(derive, photos, masks):
    "Of the optimizer, whatever the number of photos and masks; and each photo is seen twenty times at least."
    study = derive(photos, masks)
    simclr, unet = study["simclr"], study["unet"]
    n = photos - round(photos / 10)
    assert simclr["batch_size"] <= n / 2 and 8 <= simclr["batch_size"] <= 256
    assert 800 <= n // simclr["batch_size"] * simclr["epochs"] <= max(2100, 21 * n / simclr["batch_size"])
    assert 20 <= simclr["epochs"] <= 400 and 1 <= simclr["warmup_epochs"] <= simclr["epochs"] / 10
    for ratio in study["label_ratios"]:
        epochs = unet["epochs_at"].get(ratio, unet["epochs"])
        assert 0.9 * ratio * masks >= new.FEWEST_MASKS and 4 <= unet["batch_size"] <= 16
        steps = 0.9 * ratio * masks / unet["batch_size"]  # an epoch
        assert epochs == 200 or 900 <= epochs * steps <= max(2200, 21 * steps)


def test_masks_decide_the_grid(derive):
    assert [derive(40, masks)["label_ratios"] for masks in (12, 24, 60, 600)] == [
        [0.8], [0.8, 0.4], [0.8, 0.4, 0.2], [0.8, 0.4, 0.2]]


def test_blocks_ways_to_start_and_what_is_kept(derive):
    study = derive(200, 60, imagenet=True)
    assert list(study["encoders"]) == ["scratch", "imagenet", "own_photos"]
    assert study["encoders"]["own_photos"] == {"dataset": "/photos"}
    assert study["seeds"] == [0, 1, 2, 3, 4] and study["pretraining_seeds"] == [0, 1] and study["redraw_labels"]
    assert {key: study["unet"][key] for key in ("augment", "schedule", "keep")} == {
        "augment": True, "schedule": "cosine", "keep": "last"}
    runs = study_runs(check_study(study))
    assert sum(run.stage == "simclr" for run in runs) == 2 and sum(run.stage == "unet" for run in runs) == 3 * 3 * 5
    assert derive(200, 60, blocks=1)["seeds"] == [0]


def test_tiles_are_seen_at_their_own_pixels(derive, monkeypatch):
    for tile, size in ((48, 64), (96, 96), (256, 128)):
        derive(40, 12)  # which makes the sets
        monkeypatch.setattr(new, "describe", lambda labelled: Description(tile=tile))
        assert new.derive_study("mine", "/photos", "/labelled")["image_size"] == size


@pytest.mark.parametrize("photos, masks, sentence", [
    (20, 12, "/photos has 20 images, of which 18 are left to pretrain on; it takes 20 at least"),
    (40, 10, "/labelled has 10 images with masks, of which 7 are left to train on; it takes 8 at least"),
])
def test_too_few_are_refused(derive, photos, masks, sentence):
    with pytest.raises(ValueError, match=sentence): derive(photos, masks)


# Files

@pytest.fixture
def folders(workplace):
    "Folders of 30 drawn photos, and of 14 with masks."
    for part in ("photos", "labelled/images", "labelled/masks"): (workplace / part).mkdir(parents=True)
    drawn = make_synthetic(44, 32)
    for i, image in enumerate(drawn.images):
        part = "photos" if i < 30 else "labelled/images"
        Image.fromarray(image.transpose(1, 2, 0)).save(workplace / part / f"{i}.png")
        if i < 30: continue
        Image.fromarray((drawn.masks[i] != 2).astype(np.uint8)).save(workplace / "labelled/masks" / f"{i}.png")
    return workplace


@pytest.fixture
def simseg(folders, monkeypatch, capsys):
    "The command, for which nothing is timed and no hub answers."
    monkeypatch.setattr(new, "imagenet_problem", lambda: "no network")
    monkeypatch.setattr(new, "time_stages", lambda study: PACES)

    def simseg(*arguments):
        with pytest.raises(SystemExit) as end: main(["new", *map(str, arguments)])
        printed = capsys.readouterr()
        return end.value.code, printed.out + printed.err

    return simseg


def test_a_study_file_is_written_and_read_back(folders, simseg):
    code, said = simseg("mine", "photos", "labelled", "--blocks", "2")
    assert code == 0 and "ImageNet weights cannot be had here (no network)" in said
    file = folders / "params" / "mine.yaml"
    study = read_study(file, starting=True)
    assert study == check_study(new.derive_study("mine", f"{folders}/photos", f"{folders}/labelled", blocks=2))
    text = file.read_text(encoding="utf-8")
    assert read_paces(text) == PACES and "\n#     make study STUDY=mine" in text
    (expected,) = [line for line in text.splitlines() if line.startswith("# Expected: about ")]
    assert expected.removeprefix("# ") in said and "2 block(s)" in expected and "GB of disk" in expected


def test_what_is_there_already_stays(folders, simseg):
    file = folders / "params" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("# by hand\n")
    code, said = simseg("mine", "photos", "labelled")
    assert code == 2 and "params/mine.yaml is there already and stays as it is; rename it" in said
    assert file.read_text() == "# by hand\n" and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("arguments, sentence", [
    (["mine", "nowhere", "labelled"], "neither a folder"),
    (["mine", "photos", "photos"], "simseg look"),
    (["mine", "labelled/images", "labelled"], "is a part of the labelled set"),
    (["../mine", "photos", "labelled"], "is to name a folder"),
])
def test_what_cannot_be_meant_is_one_sentence(folders, simseg, arguments, sentence):
    code, said = simseg(*arguments)
    assert code == 2 and sentence in said and said.count("simseg: ") == 1 and "Traceback" not in said
    assert not (folders / "params").exists() and not (folders.parent / "mine.yaml").exists()


def test_a_study_of_days_gets_fewer_blocks(simseg, monkeypatch):
    "Three, unless one says how many."
    monkeypatch.setattr(new, "time_stages", lambda study: {"simclr": Pace(1, 5), "unet": Pace(5, 60)})
    _, said = simseg("mine", "photos", "labelled")
    assert "for 3 block(s)" in said and "5 blocks would take more than eight hours, so these are 3." in said
    _, said = simseg("asked", "photos", "labelled", "--blocks", 5)
    assert "for 5 block(s)" in said and "eight hours" not in said


# The time left, which lines of a running study take from the same figures

def test_time_left_falls_as_epochs_pass(derive):
    study = check_study({**derive(200, 60), "encoders": {"scratch": None, "own_photos": {"dataset": "synthetic"}}})
    study["unet"]["dataset"] = "synthetic"
    study["simclr"]["max_images"] = study["unet"]["max_images"] = 64
    counted = count_rows(study)
    seconds = {run: run_seconds(run, rows, PACES, 10) for run, (rows, _) in counted.items()}
    assert time_left(seconds, 2) == sum(seconds.values()) / 2
    first = Run(study, "simclr", "own_photos", seed=0)
    half = {**seconds, first: run_seconds(first, counted[first][0], PACES, 10, first.params["epochs"] // 2)}
    assert half[first] == pytest.approx((seconds[first] - 10) / 2)
    chain = Run(study, "evaluation", "own_photos", ratio=0.8, seed=0).chain
    assert time_left(seconds, 1000) >= sum(seconds[run] for run in chain)
