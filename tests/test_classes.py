"Masks of several classes: read by name, counted as torchmetrics counts, kept apart from the file to the report."
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import evaluation_params, pretrainings, simclr_params, small, study_cells, unet_params
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from simseg.evidence.comparisons import compare_ways
from simseg.base.files import read_json, write_json, write_yaml
from simseg.images.data import split_data
from simseg.images.sets import _as_species, load_pairs
from simseg.evaluation import run_evaluation
from simseg.tools.explore import explore_predictions
from simseg.images.masks import BACKGROUND, BORDER, FOREGROUND, IGNORED, values_line
from simseg.learning.metrics import class_stats, count_batch, summarise
from simseg.tools.predict import predict, predict_files
from simseg.evidence.figures import class_table, confusion_matrix
from simseg.simclr import run_simclr
from simseg.study.files import check_study, read_study
from simseg.study.results import collect_counts, collect_images, collect_results
from simseg.unet import load_model, run_unet
from simseg.evidence.verdict import find_facts, say

SIDE = 48
ANIMALS = "cat=1 dog=2 ignore=255"


# Counting

def answers(n: int, classes: int):
    "Logits and targets with ignored pixels; the last class is nowhere, and some images are background alone."
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(classes - 1, (n, 1, 12, 12), generator=generator)
    targets[:4] = 0
    logits = torch.randn(n, classes, 12, 12, generator=generator)
    logits.scatter_add_(1, targets, torch.ones_like(logits[:, :1]))
    logits[:, -1] = -9
    return logits, torch.where(torch.rand(n, 1, 12, 12, generator=generator) < 0.2, IGNORED, targets)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_metrics_are_those_of_torchmetrics_for_any_batch_size(classes):
    logits, targets = answers(64, classes)
    names = " ".join(f"c{i}={i}" for i in range(1, classes))
    shared = {"num_classes": classes, "ignore_index": IGNORED}
    each = MulticlassJaccardIndex(average="none", **shared)(logits, targets[:, 0])
    matrix = MulticlassConfusionMatrix(**shared)(logits, targets[:, 0])
    for size in (1, 7, 64):
        parts = zip(logits.split(size), targets.split(size))
        counts = pd.concat([count_batch(*part) for part in parts], ignore_index=True)
        found = summarise(counts, names)
        for i in range(1, classes - 1): assert found[f"iou_c{i}"] == pytest.approx(each[i].item(), rel=1e-6)
        assert found[f"iou_c{classes - 1}"] is None
        assert found["iou_background"] == pytest.approx(each[0].item(), rel=1e-6)
        mean = each[1:classes - 1].mean().item() if classes > 2 else 1.0
        assert found["iou"] == pytest.approx(mean, rel=1e-6)
        whole = MulticlassJaccardIndex(average="macro", **shared)(logits, targets[:, 0]).item()
        assert found["iou_with_background"] == pytest.approx(whole, rel=1e-6)
        weighted = MulticlassJaccardIndex(average="weighted", **shared)(logits, targets[:, 0]).item()
        assert found["iou_weighted"] == pytest.approx(weighted, rel=1e-6)
        accuracy = MulticlassAccuracy(average="micro", **shared)(logits, targets[:, 0]).item()
        assert found["accuracy"] == pytest.approx(accuracy, rel=1e-6)
        tp, fp, fn, tn = (stat.sum(0) for stat in class_stats(counts))
        assert torch.equal(tp, matrix.diag())
        assert torch.equal(tp + fp, matrix.sum(0)) and torch.equal(tp + fn, matrix.sum(1))
        assert set((tp + fp + fn + tn).tolist()) == {int(matrix.sum())}


def test_one_named_class_is_counted_as_one_thing_is():
    "Two channels whose difference is a logit decide as that logit does."
    logits, targets = answers(16, 2)
    generator = torch.Generator().manual_seed(1)
    things = (torch.rand(targets.shape, generator=generator) < 0.5).long()
    targets = torch.where(targets == IGNORED, IGNORED, things)
    logits[:, 1] = torch.randn(logits[:, 1].shape, generator=generator)
    one = summarise(count_batch(logits[:, 1:] - logits[:, :1], targets))
    named = summarise(count_batch(logits, targets), "thing=1")
    for metric in ("iou", "iou_per_image", "f1", "precision", "recall", "accuracy", "bce_loss"):
        assert named[metric] == pytest.approx(one[metric], rel=1e-5), metric


# Reading

def numbers_of(i: int) -> np.ndarray:
    "Mask i: a cat on the left, or a dog on the right, or both, with a line that counts nowhere."
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    if i % 3 != 1: numbers[8:40, 4:20] = 1
    if i % 3 != 0: numbers[8:40, 26:44] = 2
    numbers[4] = 255
    return numbers


COLOURS = {0: (0, 0, 0), 1: (128, 64, 128), 2: (70, 130, 180), 255: (255, 255, 255)}
IN_COLOURS = "cat=#804080 dog=#4682b4 ignore=#ffffff"


def in_colours(numbers: np.ndarray) -> Image.Image:
    picture = np.zeros((*numbers.shape, 3), np.uint8)
    for number, colour in COLOURS.items(): picture[numbers == number] = colour
    return Image.fromarray(picture)


def with_palette(numbers: np.ndarray) -> Image.Image:
    mask = Image.fromarray(numbers).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    for number, colour in COLOURS.items(): palette[number] = colour
    mask.putpalette(palette.ravel().tolist())
    return mask


def make_folder(folder, save=Image.fromarray, n: int = 30):
    "A labelled folder; each photo is grey noise, redder where there is a cat, bluer where there is a dog."
    for part in ("images", "masks"): (folder / part).mkdir(parents=True)
    for i in range(n):
        numbers = numbers_of(i)
        photo = np.random.default_rng(i).integers(60, 120, (SIDE, SIDE, 3))
        photo[numbers == 1] += (120, 0, 0)
        photo[numbers == 2] += (0, 0, 120)
        Image.fromarray(photo.astype(np.uint8)).save(folder / "images" / f"{i:02d}.png")
        save(numbers).save(folder / "masks" / f"{i:02d}.png")
    return folder


def describe(folder, classes: str):
    "Write what the masks of a folder mean, given as cat=1 dog=2; return the folder."
    values = {name: listed.split(",") for name, _, listed in (part.partition("=") for part in classes.split())}
    lines = ["images: images/{name}.png", "masks: masks/{name}.png", values_line(values), ""]
    (folder / "data.yaml").write_text("\n".join(lines))
    return folder


FORMS = {
    "numbers": (Image.fromarray, ANIMALS), "a palette, by number": (with_palette, ANIMALS),
    "a palette, by colour": (with_palette, IN_COLOURS), "colours": (in_colours, IN_COLOURS),
    "16 bits": (lambda numbers: Image.fromarray(numbers.astype(np.uint16) * 200), "cat=200 dog=400 ignore=51000"),
}


@pytest.mark.parametrize("form", FORMS)
def test_classes_are_the_same_in_every_form(form, tmp_path):
    save, classes = FORMS[form]
    data = load_pairs(str(describe(make_folder(tmp_path / "own", save, 6), classes)), SIDE)
    codes = {0: BACKGROUND, 1: FOREGROUND, 2: 4, 255: IGNORED}
    expected = np.stack([np.vectorize(codes.get)(numbers_of(i)) for i in range(6)])
    assert np.array_equal(data.masks, expected) and data.classes == classes


@pytest.mark.parametrize("classes, sentence", [
    ("cat=1 dog=2", r"00.png holds 255 \(2.08%\), which `values` does not name \(cat=1 dog=2\); name each"),
    ("cat=1 ignore=255", r"01.png holds 2 \(.*%\), which `values` does not name"),
    ("cat=#010101", "holds #ffffff"), ("cat=1 dog=1", "1 is named twice"),
    ("cat=1 road=#804080", "colours and numbers"), ("ignore=0", "0 things are named"),
])
def test_a_value_without_a_name_is_refused(classes, sentence, tmp_path):
    folder = describe(make_folder(tmp_path / "own", n=6), classes)
    with pytest.raises(ValueError, match=sentence): load_pairs(str(folder), SIDE)


def test_masks_that_nobody_described_are_answered_with_lines_that_describe_them(tmp_path):
    folder = make_folder(tmp_path / "own", n=6)
    with pytest.raises(ValueError, match="write into .*data.yaml") as error: load_pairs(str(folder), SIDE)
    (folder / "data.yaml").write_text(str(error.value).partition("data.yaml:\n")[2].partition("\n\n")[0])
    assert load_pairs(str(folder), SIDE).classes == "class_1=1 class_2=2 ignore=255"


@pytest.mark.parametrize("key, line", [("classes: cat=1 dog=2,7", r"values: \{cat: 1, dog: \[2, 7\]\}"),
                                       ("threshold_masks: true", r"values: \{thing: above 127\}")])
def test_a_study_that_says_what_masks_mean_is_refused_with_the_line_for_data_yaml(key, line, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(f"label_ratios: [0.8]\nseeds: [0]\nencoders: {{scratch: }}\nunet:\n  {key}\n")
    with pytest.raises(ValueError, match=f"(?s)study.yaml, line 5: .* has moved into data.yaml.*{line}"):
        read_study(file)


def test_other_names_are_another_data_set(tmp_path):
    "A run goes on only with the classes that it began with, also where the description has changed."
    folder = make_folder(tmp_path / "own", n=6)
    prints = set()
    for name in ("dog", "hound"):
        prints.add(load_pairs(str(describe(folder, f"cat=1 {name}=2 ignore=255")), SIDE).fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize("species, expected", [(1, [FOREGROUND, BACKGROUND, BORDER]), (2, [4, BACKGROUND, 5])])
def test_pets_by_species_keep_their_border(species, expected):
    trimap = Image.fromarray(np.array([[FOREGROUND, BACKGROUND, BORDER]], np.uint8))
    assert np.asarray(_as_species(trimap, species))[0].tolist() == expected


def test_every_part_of_a_split_holds_every_kind_of_picture(tmp_path):
    data = load_pairs(str(describe(make_folder(tmp_path / "own", n=60), ANIMALS)), SIDE)
    assert len(np.unique(data.labels)) == 3
    part = split_data(data, 0.4)
    for indices in (part.train, part.test): assert np.ptp(np.bincount(data.labels[indices], minlength=3)) <= 2


# From the folder to a mask

@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A U-Net that has learnt cats and dogs by their colours, and its evaluation."
    place = tmp_path_factory.mktemp("classes")
    folder = describe(make_folder(place / "own"), ANIMALS)
    params = small("unet", place / "unet", dataset=str(folder), image_size=64, batch_size=4, epochs=25,
                   learning_rate=3e-3)
    run_unet(params)
    test = small("evaluation", place / "test", dataset=str(folder), model_dir=str(place / "unet" / "model"))
    return place, folder, *run_evaluation(test)


def test_a_model_learns_classes_and_is_tested_by_class(trained):
    place, _, metrics, per_image = trained
    assert metrics["iou_cat"] > 0.5 and metrics["iou_dog"] > 0.5
    assert metrics["iou"] == pytest.approx((metrics["iou_cat"] + metrics["iou_dog"]) / 2)
    assert read_json(place / "test" / "metrics.json") == pytest.approx(metrics)
    assert list(per_image)[:4] == ["name", "id", "iou", "background>background"]
    assert read_json(place / "unet" / "model" / "preprocessing.json")["classes"] == ANIMALS
    assert confusion_matrix([per_image]).sum(axis=1).to_numpy() == pytest.approx(1)


def test_predicted_masks_hold_the_values_of_the_training_masks(trained, tmp_path):
    place, folder, _, _ = trained
    photos = sorted((folder / "images").iterdir())[:3]
    masks, unread = predict_files(photos, place / "unet" / "model", tmp_path / "out", device="cpu")
    assert not unread and len(masks) == 3
    for i, path in enumerate(masks):
        mask = Image.open(path)
        values = np.asarray(mask)
        assert mask.mode == "P" and set(np.unique(values)) <= {0, 1, 2}
        right = (values == numbers_of(i))[numbers_of(i) != 255]
        assert right.mean() > 0.8
        assert (tmp_path / "out" / f"{i:02d}.overlay.jpg").is_file()
    found = next(iter(predict(photos[:1], place / "unet" / "model", device="cpu")))
    assert found.probability.shape == (3, SIDE, SIDE) and found.probability.sum(0) == pytest.approx(1, abs=1e-3)


def test_a_model_of_other_classes_is_refused(trained, tmp_path):
    place, folder, _, _ = trained
    hounds = describe(shutil.copytree(folder, tmp_path / "hounds"), "cat=1 hound=2 ignore=255")
    test = small("evaluation", tmp_path / "test", dataset=str(hounds), model_dir=str(place / "unet" / "model"))
    with pytest.raises(ValueError, match="evaluate it on masks of the same classes"): run_evaluation(test)
    with pytest.raises(ValueError, match="evaluate it on masks of the same classes"):
        run_evaluation({**test, "dataset": "synthetic"})


def test_a_model_whose_channels_have_no_names_is_refused(trained, tmp_path):
    place, _, _, _ = trained
    model = shutil.copytree(place / "unet" / "model", tmp_path / "model")
    preprocessing = read_json(model / "preprocessing.json")
    for classes in ("", "cat=1", "cat=1 dog=2 cow=3"):
        write_json(model / "preprocessing.json", {**preprocessing, "classes": classes})
        with pytest.raises(ValueError, match="has 3 channels, which its preprocessing"): load_model(model)


def test_a_class_that_no_test_image_has_is_named(trained, tmp_path, capsys):
    "By a model that says nothing of where it has seen these photos, dogs and all."
    place, _, _, _ = trained
    cats = make_folder(tmp_path / "cats", lambda numbers: Image.fromarray(np.where(numbers == 2, 0, numbers)))
    describe(cats, ANIMALS)
    model = shutil.copytree(place / "unet" / "model", tmp_path / "model")
    (model / "learnt_from.safetensors").unlink()
    metrics, per_image = run_evaluation(small("evaluation", tmp_path / "test", dataset=str(cats), model_dir=str(model)))
    assert "Note: no test image has the class dog." in capsys.readouterr().out
    assert per_image[[f"dog>{name}" for name in ("background", "cat", "dog")]].to_numpy().sum() == 0
    assert metrics["iou_cat"] > 0 and metrics["iou_dog"] in (0, None)


def test_a_description_that_windows_wrote_is_read(tmp_path):
    "With the mark that its editors begin with."
    folder = describe(make_folder(tmp_path / "own", n=6), ANIMALS)
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert load_pairs(str(folder), SIDE).classes == ANIMALS


def test_several_values_may_be_one_thing(trained, tmp_path):
    _, folder, _, _ = trained
    data = load_pairs(str(describe(shutil.copytree(folder, tmp_path / "own"), "animal=1,2 ignore=255")), SIDE)
    assert set(np.unique(data.masks)) == {BACKGROUND, FOREGROUND, IGNORED} and BORDER not in data.masks
    assert data.classes == ""  # one thing and its background


def test_images_without_labels_teach_several_classes(tmp_path):
    "The average's targets are classes then, and the rest of a run is as ever."
    asked = {"consistency": 1.0, "label_ratio": 0.4, "epochs": 2, "batch_size": 4}
    folder = describe(make_folder(tmp_path / "own"), ANIMALS)
    history = run_unet(small("unet", tmp_path / "run", dataset=str(folder), **asked))
    assert all(np.isfinite(row["consistency_loss"]) and 0 <= row["sure"] <= 1 for row in history)
    assert read_json(tmp_path / "run" / "metrics.json")["n_unlabelled"] > 0


def test_the_notebooks_show_any_number_of_classes(papermill, tmp_path):
    "As batch jobs, with more classes than a picture has channels; nothing is said of parameters that nobody knows."
    shared = {"dataset": describe(make_folder(tmp_path / "own"), "cat=1 dog=2 line=255"), "device": "cpu"}
    stages = {"3_unet": {"epochs": 1, "image_size": 32, "out_dir": tmp_path / "unet"},
              "4_evaluation": {"model_dir": tmp_path / "unet" / "model", "out_dir": tmp_path / "test"}}
    for name, params in stages.items():
        run = papermill(name, **shared, **params)
        assert run.returncode == 0, run.stderr[-2000:]
        assert "Unable to parse" not in run.stderr and "unknown parameter" not in run.stderr
    metrics = read_json(tmp_path / "test" / "metrics.json")
    assert metrics["iou"] == pytest.approx(np.mean([metrics[f"iou_{name}"] for name in ("cat", "dog", "line")]))


def test_a_study_of_classes_compares_their_mean(workplace, tmp_path):
    "Its results have a column a class; the statistics take the mean."
    study = check_study({
        "name": "animals", "image_size": 32, "label_ratios": [0.8, 0.4], "seeds": [0, 1], "device": "cpu",
        "encoders": {"scratch": None, "mine": {"dataset": "synthetic", "max_images": 64}},
        "simclr": {"batch_size": 32, "epochs": 1, "optimizer": "adamw", "learning_rate": 1e-3},
        "unet": {"dataset": str(describe(make_folder(tmp_path / "own"), ANIMALS)), "batch_size": 4, "epochs": 2},
    })
    write_yaml(workplace / "outputs" / "animals" / "study.yaml", study)
    for pair in pretrainings(study): run_simclr(simclr_params(study, *pair))
    for cell in study_cells(study):
        run_unet(unet_params(study, *cell))
        run_evaluation(evaluation_params(study, *cell))
    results = collect_results(study)
    assert results["iou"].to_numpy() == pytest.approx(results[["iou_cat", "iou_dog"]].mean(axis=1).to_numpy())
    counts = collect_counts(study)
    means = results.groupby(["encoder", "label_ratio"])["iou"].mean()
    for row in compare_ways(study, results).itertuples():
        difference = means[row.way, row.label_ratio] - means["scratch", row.label_ratio]
        assert row.difference == pytest.approx(difference, abs=1e-6)
    assert say(find_facts(study, results, counts=counts))
    assert list(class_table(results).columns.unique(0)) == ["background", "cat", "dog"]
    assert set(collect_images(study)) == set(counts)
    widget = explore_predictions("outputs/animals/study.yaml")
    assert "IoU of scratch at 40%" in widget.view.value and f"Classes: {ANIMALS}." in widget.view.value
