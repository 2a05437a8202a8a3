"Pictures that are cut into tiles, and pictures that belong together: what trains, what is tested, and at which pixels."
import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small
from PIL import Image

from simseg.base.files import read_csv, read_json
from simseg.evaluation import run_evaluation
from simseg.evidence.figures import show_predictions
from simseg.images.cache import cache_dir
from simseg.images.data import known_images, read_known, split_data, split_unlabelled
from simseg.images.masks import IGNORED
from simseg.images.sets import load_pairs, load_unlabelled
from simseg.images.tiles import cut_squares, join_squares, tile_corners
from simseg.learning.consistency import without_labels
from simseg.simclr import run_simclr
from simseg.study.files import check_study
from simseg.study.grid import MINIATURE, Run
from simseg.study.results import collect_counts, collect_results, run_study
from simseg.tools.command import main
from simseg.tools.explore import explore_data, explore_predictions
from simseg.tools.predict import predict
from simseg.unet import load_model, run_unet

SIDE = 32  # image_size
TILE = 48
SIZE = (120, 90)  # of a picture: three by three tiles


def picture(i: int, size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    "A photo of its own texture with a bright square, and where that is."
    rng = np.random.default_rng(i)
    coarse = rng.integers(40, 216, (9, 9, 3)).astype(np.uint8)
    photo = np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    x, y = rng.integers(0, np.array(size) - 24)
    inside = np.zeros(photo.shape[:2], bool)
    inside[y:y + 24, x:x + 24] = True
    photo[inside] = (250, 240, 60)
    return photo, inside


def make_set(folder, description: str, n: int = 20, size=SIZE, name=lambda i: f"{i:02d}"):
    "A labelled set with its description; returns its folder as a parameter."
    for part in ("images", "masks"): (folder / part).mkdir(parents=True)
    for i in range(n):
        photo, inside = picture(i, size)
        Image.fromarray(photo).save(folder / "images" / f"{name(i)}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masks" / f"{name(i)}.png")
    return describe(folder, description)


def describe(folder, description: str) -> str:
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nvalues: {square: 255}\n"
    (folder / "data.yaml").write_text(text + description)
    return str(folder)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("tiled"), f"tile: {TILE}\n")


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory, tiled):
    "A description of the same files, elsewhere, without tiles."
    folder = tmp_path_factory.mktemp("squeezed")
    shutil.copytree(tiled, folder, dirs_exist_ok=True)
    return describe(folder, "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiled, squeezed):
    "The folder of a model trained on tiles, and of one trained on squeezed pictures."
    folder = tmp_path_factory.mktemp("trained")
    for name, dataset in {"tiles": tiled, "squeezed": squeezed}.items():
        run_unet(small("unet", folder / name, dataset=dataset, epochs=2, image_size=SIDE))
    return folder


def evaluate(out, model, dataset, **changed) -> tuple[dict, pd.DataFrame]:
    return run_evaluation(small("evaluation", out, model_dir=str(model), dataset=dataset, **changed))


# Cutting

@pytest.mark.parametrize("size", [(1, 1), (47, 48), (48, 200), (120, 90), (333, 77)], ids=str)
def test_cut_and_put_together_is_the_picture(size):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    squares = cut_squares(photo, TILE, TILE)
    assert len(squares) == len(tile_corners(*size, TILE))
    whole = join_squares(torch.from_numpy(squares).permute(0, 3, 1, 2).float(), *size, TILE)
    assert np.array_equal(whole.round().byte().permute(1, 2, 0), photo)


def test_padding_counts_nowhere(tmp_path):
    "Neither in the masks that a model learns from, nor in scores, of pictures smaller than a tile."
    dataset = make_set(tmp_path / "set", "tile: 64\n", size=(80, 40))
    data = load_pairs(dataset, 64)
    assert len(data) == 2 * 20
    assert (data.masks[:, 40:] == IGNORED).all() and (data.masks[:, :40] != IGNORED).all()
    run_unet(small("unet", tmp_path / "unet", dataset=dataset, epochs=1, image_size=64, label_ratio=0.2))
    _, counts = evaluate(tmp_path / "evaluation", tmp_path / "unet" / "model", dataset)
    assert (counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == 80 * 40).all()


def test_rows_are_tiles_of_image_and_mask(tiled):
    data = load_pairs(tiled, TILE)
    assert len(data) == 20 * 9 and data.n_pictures(np.arange(len(data))) == 20
    photo, inside = picture(3)
    tiles = np.flatnonzero(np.array(data.names) == "03")
    for row, (x, y) in zip(tiles, tile_corners(*SIZE, TILE), strict=True):
        there = (slice(y, y + TILE), slice(x, x + TILE))
        assert np.array_equal(data.images[row].transpose(1, 2, 0), photo[there])
        assert np.array_equal(data.masks[row] == 1, inside[there])


def test_masks_and_photos_that_are_turned_or_smaller_are_cut_alike(tmp_path):
    dataset = make_set(tmp_path, f"tile: {TILE}\n", n=12)
    photo, inside = picture(0)
    upright = Image.fromarray(inside.astype(np.uint8) * 255)
    upright.resize((60, 45), Image.Resampling.NEAREST).save(tmp_path / "masks" / "00.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right, when shown
    Image.fromarray(np.rot90(picture(1)[0])).save(tmp_path / "images" / "01.png", exif=exif)
    data = load_pairs(dataset, TILE)
    assert len(data) == 12 * 9
    for name, i in {"00": 0, "01": 1}.items():
        photo, inside = picture(i)
        read, mask = data.read_whole(name)
        assert np.array_equal(read, photo) and mask.size == read.size
        first = np.array(data.names).tolist().index(name)
        assert np.array_equal(data.images[first].transpose(1, 2, 0), photo[:TILE, :TILE])
        if i: assert np.array_equal(np.asarray(mask) == 1, inside)
        else: assert np.mean((np.asarray(mask) == 1) != inside) < 0.02


def test_a_damaged_picture_is_left_out_with_all_its_tiles(tmp_path):
    dataset = make_set(tmp_path, f"tile: {TILE}\n")
    whole = (tmp_path / "images" / "05.png").read_bytes()
    (tmp_path / "images" / "05.png").write_bytes(whole[:len(whole) // 2])  # its size can be read, and nothing else
    (tmp_path / "images" / "06.png").write_bytes(b"")
    data = load_pairs(dataset, SIDE)
    assert len(data) == 18 * 9 and not {"05", "06"} & set(data.names)
    assert [row["file"] for row in data.skipped] == ["05", "06"]
    assert np.bincount(data.pictures).tolist() == [9] * 18
    (tmp_path / "images" / "07.png").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 20 images .* cannot be read"): load_pairs(dataset, SIDE)


def test_room_on_the_disk_is_asked_for_all_tiles(tiled, monkeypatch):
    asked = []
    monkeypatch.setattr("simseg.images.cache.check_free", lambda folder, needed, *_: asked.append(needed))
    data = load_pairs(tiled, 40)
    assert asked == [data.images.nbytes + data.masks.nbytes]


def test_another_tile_is_another_set_and_replaces_it_in_the_cache(tmp_path):
    dataset = make_set(tmp_path, f"tile: {TILE}\n", n=12)
    prints = {load_pairs(dataset, SIDE).fingerprint}
    before = len(list(cache_dir().glob("folder-*")))
    for line in ("", "tile: 60\n"):
        describe(tmp_path, line)
        prints.add(load_pairs(dataset, SIDE).fingerprint)
    assert len(prints) == 3 and len(list(cache_dir().glob("folder-*"))) == before


# Sides

def test_no_picture_is_on_two_sides(tiled, squeezed):
    data = load_pairs(tiled, SIDE)
    whole = load_pairs(squeezed, SIDE)
    names = np.array(data.names)
    assert set(names[split_data(data).test]) == set(np.array(whole.names)[split_data(whole).test])  # the same pictures
    for ratio, draw in itertools.product((0.8, 0.5, 0.2), range(3)):
        part = split_data(data, ratio, label_seed=draw)
        sides = [set(names[rows]) for rows in (part.train, part.val, part.test)]
        assert all(sides) and len(set.union(*sides)) == sum(map(len, sides)) == round(0.2 * 20) + round(ratio * 20)
        assert sum(len(rows) for rows in (part.train, part.val, part.test)) == 9 * sum(map(len, sides))
        if ratio < 0.8: assert set(names[without_labels(data, ratio, label_seed=draw)]).isdisjoint(set.union(*sides))
    part = split_unlabelled(data, max_images=8, val_fraction=0.25)
    assert data.n_pictures(part.train) == 6 and len(part.val) == 2 * 9
    assert set(names[part.test]) == set(names[split_data(data).test])


def test_models_know_pictures_and_not_tiles(trained, tiled):
    data = load_pairs(tiled, SIDE)
    part = split_data(data)
    known = read_known(trained / "tiles" / "model" / "learnt_from.safetensors")
    assert sorted(known["ids"]) == sorted({data.ids[row] for row in np.r_[part.train, part.val]})
    metrics = read_json(trained / "tiles" / "metrics.json")
    assert (metrics["n_train"], metrics["n_val"], metrics["n_tiles"]) == (14, 2, 14 * 9)


# Scores

def by_hand(model, photo: np.ndarray) -> np.ndarray:
    "The probability of each pixel, tile by tile and pixel by pixel."
    sums = np.zeros(photo.shape[:2])
    weights = np.zeros(photo.shape[:2])
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    edge = np.minimum(np.arange(TILE) + 0.5, TILE - 0.5 - np.arange(TILE))
    for y, x in itertools.product((0, 21, 42), (0, 36, 72)):
        tile = Image.fromarray(photo[y:y + TILE, x:x + TILE]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(((np.asarray(tile) / 255 - mean) / std).transpose(2, 0, 1)).float()
        with torch.no_grad(): small = model(pixels[None]).sigmoid()
        large = torch.nn.functional.interpolate(small, (TILE, TILE), mode="bilinear", antialias=True)[0, 0].numpy()
        sums[y:y + TILE, x:x + TILE] += large * np.outer(edge, edge)
        weights[y:y + TILE, x:x + TILE] += np.outer(edge, edge)
    return sums / weights


def counted(called: np.ndarray, inside: np.ndarray) -> list[int]:
    return [(called & inside).sum(), (called & ~inside).sum(), (~called & inside).sum(), (~called & ~inside).sum()]


def test_whole_pictures_are_scored_as_by_hand(trained, tiled, tmp_path):
    "At the pictures' own pixels, a row for each, and the same by `predict`."
    model, settings = load_model(trained / "tiles" / "model")
    assert settings["tile"] == TILE
    metrics, counts = evaluate(tmp_path / "evaluation", trained / "tiles" / "model", tiled, precision="fp32")
    assert len(counts) == 4 == metrics["n_images"]
    total = np.zeros(4)
    for row in counts.to_dict("records"):
        photo, inside = picture(int(row["name"]))
        probability = by_hand(model, photo)
        (predicted,) = predict([Image.fromarray(photo)], trained / "tiles" / "model", device="cpu", precision="fp32")
        np.testing.assert_allclose(predicted.probability, probability, atol=1e-5)
        expected = counted(probability >= 0.5, inside)
        assert [row[name] for name in ("tp", "fp", "fn", "tn")] == expected
        assert counted(predicted.mask, inside) == expected
        total += expected
    assert np.isclose(metrics["iou"], total[0] / total[:3].sum())
    assert np.isclose(metrics["iou_guess"], (total[0] + total[2]) / total.sum())
    assert (tmp_path / "evaluation" / "overlays.png").is_file()


def test_validation_is_of_whole_pictures(trained, tiled, tmp_path):
    "The IoU of the history's last epoch is that of the kept model on the validation pictures."
    params = small("unet", tmp_path / "last", dataset=tiled, epochs=1, image_size=SIDE, keep="last", precision="fp32")
    history = run_unet(params)
    data = load_pairs(tiled, SIDE)
    names = {data.names[row] for row in split_data(data).val}
    total = np.zeros(4)
    for name in names:
        photo, inside = picture(int(name))
        (found,) = predict([Image.fromarray(photo)], tmp_path / "last" / "model", device="cpu", precision="fp32")
        total += counted(found.mask, inside)
    assert len(names) == 2 and np.isclose(history[-1]["val_iou"], total[0] / total[:3].sum())


def test_a_squeezed_model_is_scored_at_the_pictures_own_pixels(trained, tiled, squeezed, tmp_path):
    "By the description that asks for tiles; by its own, at the pixels that it was trained on."
    model = trained / "squeezed" / "model"
    _, counts = evaluate(tmp_path / "own", model, tiled, precision="fp32")
    for row in counts.to_dict("records"):
        photo, inside = picture(int(row["name"]))
        (found,) = predict([Image.fromarray(photo)], model, device="cpu", precision="fp32")
        assert [row[name] for name in ("tp", "fp", "fn", "tn")] == counted(found.mask, inside)
    _, small_counts = evaluate(tmp_path / "small", model, squeezed)
    assert small_counts["name"].tolist() == counts["name"].tolist()
    assert (small_counts[["tp", "fp", "fn", "tn"]].sum(axis=1) == SIDE**2).all()
    with pytest.raises(ValueError, match=f"learnt from tiles of {TILE} pixels, and .* write tile: {TILE}"):
        evaluate(tmp_path / "refused", trained / "tiles" / "model", squeezed)


def test_predicted_masks_have_the_photos_size(trained, tmp_path):
    sizes = [(200, 31), (17, 20), (130, 140)]
    photos = [tmp_path / f"{size[0]}.png" for size in sizes]
    for photo, size in zip(photos, sizes): Image.fromarray(picture(0, (150, 150))[0]).resize(size).save(photo)
    with pytest.raises(SystemExit, match="0"):
        main(["predict", *map(str, photos), "--model", str(trained / "tiles" / "model"), "--out",
              str(tmp_path / "found")])
    assert [Image.open(tmp_path / "found" / photo.name).size for photo in photos] == sizes


def test_several_classes_by_tiles(tmp_path):
    dataset = make_set(tmp_path / "set", "")
    for i in range(20):
        inside = picture(i)[1]
        Image.fromarray(inside.astype(np.uint8) * (1 + i % 2)).save(tmp_path / "set" / "masks" / f"{i:02d}.png")
    text = "images: images/{name}.png\nmasks: masks/{name}.png\nvalues: {cat: 1, dog: 2}\n"
    (tmp_path / "set" / "data.yaml").write_text(f"{text}tile: {TILE}\n")
    data = load_pairs(dataset, SIDE)
    part = split_data(data)
    assert len({data.labels[row] for row in part.test}) == 2  # stratified by what the pictures show, not the tiles
    run_unet(small("unet", tmp_path / "unet", dataset=dataset, epochs=0, image_size=SIDE))
    metrics, counts = evaluate(tmp_path / "evaluation", tmp_path / "unet" / "model", dataset)
    pairs = [column for column in counts if ">" in column]
    assert len(pairs) == 9 and (counts[pairs].sum(axis=1) == 120 * 90).all() and metrics["n_images"] == 4


def test_a_stopped_run_on_tiles_ends_as_one_never_stopped(tmp_path):
    "Bit for bit, with images without labels too."
    dataset = make_set(tmp_path / "set", f"tile: {TILE}\n", size=(60, 60))
    params = {"dataset": dataset, "epochs": 2, "image_size": SIDE, "label_ratio": 0.3}
    params |= {"consistency": 1.0, "augment": True}
    run_unet(small("unet", tmp_path / "once", **params))
    run_unet(small("unet", tmp_path / "twice", **params, stop_after=1))
    run_unet(small("unet", tmp_path / "twice", **params))
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("once", "twice")]
    assert weights[0] == weights[1]
    histories = [read_csv(tmp_path / name / "history.csv") for name in ("once", "twice")]
    histories = [history.drop(columns="images_per_second") for history in histories]
    pd.testing.assert_frame_equal(*histories)
    metrics = read_json(tmp_path / "twice" / "metrics.json")
    assert (metrics["n_train"], metrics["n_unlabelled"], metrics["n_tiles"]) == (5, 10, 5 * 4)


# Groups

PATIENT = "groups: '(patient\\d+)_'\n"


def patient(i: int) -> str: return f"patient{i // 5:02d}_slice{i % 5}"


@pytest.fixture(scope="module", params=["", f"tile: {TILE}\n"], ids=["squeezed", "tiles"])
def patients(request, tmp_path_factory):
    "Twelve patients with five slices each."
    return make_set(tmp_path_factory.mktemp("patients"), PATIENT + request.param, 60, (60, 50), patient)


def of(data, rows) -> set: return {data.group_names[row] for row in rows}


def test_a_patient_stays_on_one_side(patients):
    "For every ratio and draw; 20 % of 12 patients are two."
    data = load_pairs(patients, SIDE)
    tests = set()
    for ratio, draw, seed in itertools.product((0.8, 0.5, 0.3, 0.2), range(3), range(3)):
        part = split_data(data, ratio, split_seed=seed, label_seed=draw)
        sides = [of(data, rows) for rows in (part.train, part.val, part.test)]
        assert all(sides) and len(set.union(*sides)) == sum(map(len, sides))
        assert len(sides[2]) == 2 and len(sides[0] | sides[1]) == max(2, round(12 * ratio))
        tests.add(tuple(sorted(sides[2])))
        if ratio == 0.8: continue
        unlabelled = without_labels(data, ratio, split_seed=seed, label_seed=draw)
        assert of(data, unlabelled).isdisjoint(set.union(*sides))
    assert len(tests) == 3  # one for each split_seed


def test_a_test_patients_photos_are_not_pretrained_on(patients, tmp_path):
    "Other photos of the patient, in a folder of photos whose description names groups."
    data = load_pairs(patients, SIDE)
    test = split_data(data).test
    photos = tmp_path / "photos"
    (photos / "scans").mkdir(parents=True)
    for i in range(60):
        Image.fromarray(picture(500 + i, (60, 50))[0]).save(photos / "scans" / f"{patient(i)}_later.png")
    tile = "tile: 48\n" if data.tile else ""
    (photos / "data.yaml").write_text("images: scans/{name}.png\n" + PATIENT + tile)
    unlabelled = load_unlabelled(str(photos), SIDE)
    part = split_unlabelled(unlabelled, tested=known_images(data, test))
    assert of(unlabelled, part.test) == of(data, test)
    assert of(unlabelled, np.r_[part.train, part.val]).isdisjoint(of(data, test))
    run_simclr(small("simclr", tmp_path / "simclr", dataset=str(photos), leave_out=patients, max_images=0, epochs=1))
    metrics = read_json(tmp_path / "simclr" / "metrics.json")
    assert metrics["n_left_out"] == 10 and metrics["n_train"] + metrics["n_val"] == 50
    assert set(read_known(tmp_path / "simclr" / "learnt_from.safetensors")["groups"]).isdisjoint(of(data, test))
    assert ("n_tiles" in metrics) == bool(data.tile)
    own = split_unlabelled(data)  # the labelled set itself
    assert of(data, own.test) == of(data, test)
    assert of(data, np.r_[own.train, own.val]).isdisjoint(of(data, test))


def test_official_test_images_keep_their_patients_out(patients, tmp_path):
    "A patient of whom one slice is tested on is not learnt from."
    folder = tmp_path / "official"
    shutil.copytree(patients, folder)
    with (folder / "data.yaml").open("a") as file: file.write("test: official.txt\n")
    (folder / "official.txt").write_text("patient03_slice1\npatient07_slice2.png\n")
    data = load_pairs(str(folder), SIDE)
    part = split_data(data, split="official")
    assert {data.names[row] for row in part.test} == {"patient03_slice1", "patient07_slice2"}
    learnt = of(data, np.r_[part.train, part.val])
    assert len(learnt) == 10 and learnt.isdisjoint({"patient03", "patient07"})
    params = {"dataset": str(folder), "split": "official", "image_size": SIDE}
    run_unet(small("unet", tmp_path / "unet", **params, epochs=0))
    _, counts = evaluate(tmp_path / "evaluation", tmp_path / "unet" / "model", str(folder), split="official")
    assert counts["group"].tolist() == ["patient03", "patient07"]


def test_a_model_is_not_tested_on_another_image_of_a_group(patients, tmp_path):
    "A week later, with new images of the same patients under other names."
    data = load_pairs(patients, SIDE)
    part = split_data(data)
    run_unet(small("unet", tmp_path / "unet", dataset=patients, epochs=0, image_size=SIDE))
    later = tmp_path / "later"
    description = f"{PATIENT}{'tile: 48' if data.tile else ''}\ntest: official.txt\n"
    make_set(later, description, 20, (60, 50), lambda i: f"patient{20 + i}_slice0")
    for seen, name in {True: min(of(data, part.train)), False: min(of(data, part.test))}.items():
        for i, place in enumerate(("images", "masks")):
            file = picture(900)[i] if i == 0 else picture(900)[1].astype(np.uint8) * 255
            Image.fromarray(file).save(later / place / f"{name}_later.png")
        (later / "official.txt").write_text(f"{name}_later\n")
        if seen:
            with pytest.raises(ValueError, match=f"learnt from 1 of the 1 test images, .* such as {name}_later"):
                evaluate(tmp_path / "refused", tmp_path / "unet" / "model", str(later), split="official")
        else: evaluate(tmp_path / "evaluation", tmp_path / "unet" / "model", str(later), split="official")


# Studies

def test_a_study_on_tiles_of_patients(workplace):
    "Its results count pictures and know groups; figures and widgets show whole pictures."
    dataset = make_set(workplace / "set", f"{PATIENT}tile: {TILE}\n", 40, (60, 60), patient)
    one = {"label_ratios": [0.5], "seeds": [0], "seeds_at": {}, "encoders": {"scratch": None}, "recipes": {}}
    unet = {"dataset": dataset, "max_images": 0, "epochs": 1}
    study = check_study({**MINIATURE, **one, "unet": unet, "name": "tiles", "image_size": SIDE, "device": "cpu"})
    folder = run_study(study)
    (row,) = collect_results(study).to_dict("records")
    assert (row["n_train"], row["n_images"]) == (15, 5)
    ((_, counts),) = collect_counts(study).values()
    table = read_csv(Run(study, "evaluation", "scratch", ratio=0.5, seed=0).folder / "per_image.csv")
    assert counts.shape == (1, 5, 2) and counts[0].groups == counts.groups == table["group"].tolist()
    drawn = show_predictions(study, 0.5, count=3).axes[0].images[0].get_array()
    assert drawn.shape[:2] == (2 * 258 + 2, 3 * 258 + 2)  # squares of 256 pixels with gaps
    assert "40 images" in explore_data(dataset).view.value
    shown = explore_predictions(folder / "study.yaml").view.value
    assert f"Test image {table['name'][0]}" in shown and f" {table['iou'][0]:.2f}." in shown
