"""`simseg look`: what it says of folders as other fields ship them, and that what it proposes is read rightly. Every test
draws its own few pictures."""
import re
import shutil
from itertools import product

import numpy as np
import pytest
from PIL import Image

from simseg.images.description import FILE, read_description
from simseg.images.masks import CODES, IGNORED
from simseg.images.sets import load_data, load_pairs
from simseg.tools.command import main
from simseg.tools.look import look

SIDE = 48
VOC = [sum(((value >> (3 * j + c)) & 1) << (7 - j) for j in range(3)) for value in range(256) for c in range(3)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, workplace):
    "A cache and outputs/ of its own for every test."
    monkeypatch.setenv("SIMSEG_CACHE", str(tmp_path / "cache"))


def photo_and_mask(i: int, size=(SIDE, SIDE), side=12):  # (H, W, 3), uint8; (H, W), bool
    "A photo of its own texture with a bright square, and where it is."
    coarse = np.random.default_rng(1000 + i).integers(40, 216, (9, 9, 3)).astype(np.uint8)
    photo = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).copy()
    inside = np.zeros(photo.shape[:2], bool)
    rng = np.random.default_rng(i)
    y = rng.integers(0, size[1] - side)
    x = rng.integers(0, size[0] - side)
    inside[y:y + side, x:x + side] = True
    photo[inside] = (250, 240, 60)
    return photo, inside


def save(pixels: np.ndarray, path, palette=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = image.convert("P")
        image.putpalette(palette)
    image.save(path, **options)


def draw(folder, photo: str, mask: str, count=12, masked=None, value=255, size=(SIDE, SIDE), first=0) -> dict:
    "Save photos, and masks of the first of them, under the names that templates give; return the masks by number."
    masks = {}
    for i in range(first, first + count):
        pixels, inside = photo_and_mask(i, size)
        save(pixels, folder / photo.format(i))
        if masked is not None and i - first >= masked: continue
        save(inside.astype(np.uint8) * value, folder / mask.format(i))
        masks[i] = inside
    return masks


def run(capsys, *arguments) -> tuple[int, str]:  # exit code, what is said
    with pytest.raises(SystemExit) as ended: main(["look", *map(str, arguments)])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out + said.err


def things_of(folder) -> dict:  # name → (S, S), codes
    data = load_pairs(str(folder), SIDE)
    return dict(zip(data.names, np.asarray(data.masks)))


# Layouts of public sets: folder → the masks that are to be read, by name, as numbers of classes

def voc(folder):
    "A palette, 255 round the things, and masks of half of the photos."
    masks = {}
    for i in range(20):
        pixels, inside = photo_and_mask(i)
        name = f"2007_{i:06d}"
        save(pixels, folder / f"JPEGImages/{name}.jpg")
        if i >= 10: continue
        around = np.pad(inside, 1)[1:-1, :-2] & ~inside
        for part, number in (("Class", 1 + i % 3), ("Object", 1)):
            values = np.where(around, 255, inside * number).astype(np.uint8)
            save(values, folder / f"Segmentation{part}/{name}.png", VOC)
        masks[name] = np.where(around, IGNORED, inside * (1 + i % 3))
    (folder / "ImageSets").mkdir()
    (folder / "ImageSets" / "val.txt").write_text("2007_000001\n2007_000002\n")
    return masks


def cityscapes(folder):
    "Three kinds of masks in one folder, and polygons beside them."
    masks = {}
    for i, (part, town) in enumerate(product(["train", "val"], ["aachen", "bochum", "ulm"] * 3)):
        pixels, inside = photo_and_mask(i)
        name = f"{part}/{town}/{town}_{i:06d}_000019"
        save(pixels, folder / f"leftImg8bit/{name}_leftImg8bit.png")
        ids = np.where(inside, 26, 7).astype(np.uint8)
        ids[:4] = 0
        save(ids, folder / f"gtFine/{name}_gtFine_labelIds.png")
        save((ids * np.uint16(1000) + i).astype(np.uint16), folder / f"gtFine/{name}_gtFine_instanceIds.png")
        colours = np.array([[0, 0, 0, 255], [128, 64, 128, 255], [0, 0, 142, 255]], np.uint8)
        save(colours[np.searchsorted([0, 7, 26], ids)], folder / f"gtFine/{name}_gtFine_color.png")
        (folder / f"gtFine/{name}_gtFine_polygons.json").write_text("{}")
        masks[name] = np.searchsorted([0, 7, 26], ids)
    return masks


def nnunet(folder):
    masks = draw(folder, "imagesTr/case_{:03d}_0000.png", "labelsTr/case_{:03d}.png", value=1)
    draw(folder, "imagesTs/case_{:03d}_0000.png", "", 4, masked=0, first=50)
    return {f"case_{i:03d}": inside for i, inside in masks.items()}


def drive(folder):
    "Two kinds of masks: the vessels, and the field of view, which test images have alone."
    masks = draw(folder, "training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif", first=21)
    draw(folder, "test/images/{:02d}_test.tif", "", masked=0, first=1)
    view = ((np.arange(SIDE)[:, None] - 24) ** 2 + (np.arange(SIDE) - 24) ** 2 < 400).astype(np.uint8) * 255
    for i in masks: save(view, folder / f"training/mask/{i}_training_mask.gif")
    for i in range(1, 13): save(view, folder / f"test/mask/{i:02d}_test_mask.gif")
    return {str(i): inside for i, inside in masks.items()}


def dsb(folder):
    "A folder an image, a mask a nucleus, names without meaning."
    masks = {}
    for i in range(10):
        name = f"{hash((i, 1)) % 10**12:012x}"
        pixels, first = photo_and_mask(i)
        second = np.roll(first, 20, 0)
        save(pixels, folder / f"{name}/images/{name}.png")
        for k, inside in enumerate((first, second)):
            save(inside.astype(np.uint8) * 255, folder / f"{name}/masks/{hash((i, k)) % 10**9:x}e{k}.png")
        masks[name] = first | second
    return masks


def cell_tracking(folder, series=("01",)):
    "16-bit photos; numbers of cells in every second frame; and marks of all cells, which are no outlines."
    masks = {}
    for one, i in product(series, range(12)):
        pixels, inside = photo_and_mask(i + 50 * int(one))
        save(pixels.mean(2).astype(np.uint16) * 100, folder / f"{one}/t{i:03d}.tif")
        marks = inside & np.roll(inside, 8, 0) & np.roll(inside, 8, 1)
        save(marks * np.uint16(i + 1), folder / f"{one}_GT/TRA/man_track{i:03d}.tif")
        if i % 2: continue
        save(inside * np.uint16(i + 1), folder / f"{one}_GT/SEG/man_seg{i:03d}.tif")
        masks[f"{one}/{i:03d}" if len(series) > 1 else f"{i:03d}"] = inside
    return masks


def two_series(folder): return cell_tracking(folder, ("01", "02"))


def side_by_side(folder):
    return {f"cat{i}": inside for i, inside in draw(folder, "cat{}.png", "cat{}_mask.png").items()}


def beginnings(folder):
    return {str(i): inside for i, inside in draw(folder, "img_{}.png", "mask_{}.png").items()}


def same_stem(folder): return {f"x{i}": inside for i, inside in draw(folder, "x{}.jpg", "x{}.png").items()}


def folder_an_image(folder):
    return {f"case{i}": inside for i, inside in draw(folder, "case{}/image.png", "case{}/mask.png").items()}


def parts(folder):
    "The same names in train/ and val/."
    train = draw(folder, "train/images/{}.jpg", "train/masks/{}.png", 6)
    val = draw(folder, "val/images/{}.jpg", "val/masks/{}.png", 4, first=3)
    return {f"{part}/{i}": inside for part, masks in (("train", train), ("val", val)) for i, inside in masks.items()}


def words_between(folder):
    masks = {}
    for patient, i in product("abcdef", range(3)):
        masks |= {f"{patient}1/{i}": inside for inside in draw(
            folder, f"images/{patient}1_img_{i}.png", f"masks/{patient}1_seg_{i}.png", 1, first=10 * ord(patient) + i).values()}
    return masks


def dark_photos(folder):
    "Photos that look like masks themselves: a few bright cells on black."
    masks = {}
    for i in range(12):
        inside = photo_and_mask(i)[1]
        save(np.where(inside, 90 + 3 * np.arange(SIDE), 0).astype(np.uint8), folder / f"images/{i}.tif")
        save(inside.astype(np.uint8), folder / f"gt/{i}.png")
        masks[str(i)] = inside
    return masks


LAYOUTS = [voc, cityscapes, nnunet, drive, dsb, cell_tracking, two_series, side_by_side, beginnings, same_stem,
           folder_an_image, parts, words_between, dark_photos]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_layout_is_proposed_and_read_as_it_was_drawn(layout, tmp_path, capsys):
    masks = layout(tmp_path / "set")
    code, said = run(capsys, tmp_path / "set", "--write")
    assert code == 0, said
    read = things_of(tmp_path / "set")
    assert read.keys() == masks.keys()
    for name, numbers in masks.items():
        assert np.array_equal(read[name], np.vectorize(CODES.get)(numbers.astype(int))), name


@pytest.mark.parametrize("layout, truth, other", [
    (voc, "SegmentationClass", "SegmentationObject"), (cityscapes, "labelIds", "instanceIds"),
    (drive, "1st_manual", "mask"), (cell_tracking, "SEG", "TRA")], ids=lambda value: getattr(value, "__name__", value))
def test_all_candidates_for_the_masks_are_named(layout, truth, other, tmp_path):
    layout(tmp_path)
    seen = look(tmp_path)
    (line,) = [line for line in seen.text.splitlines() if "looks like masks too" in line and f"{other}" in line.partition(" looks")[0]]
    assert truth in line and "confirm" in line
    assert f"# - {line.partition('. ')[2]}" in seen.proposed[FILE]


def test_the_set_s_own_test_images_and_all_photos_are_proposed(tmp_path):
    voc(tmp_path)
    look(tmp_path).write()
    data = load_pairs(str(tmp_path), SIDE)
    assert [name for name, test in zip(data.names, data.official_test) if test] == ["2007_000001", "2007_000002"]
    photos = load_data(str(tmp_path / "photos.yaml"), SIDE)
    assert len(photos) == 20 and photos.masks is None
