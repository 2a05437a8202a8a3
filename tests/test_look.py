"""`simseg look`: what it says of folders as other fields ship them, and that its proposals are read rightly. Every test
draws its own few pictures."""
import random
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
        names = (f"images/{patient}1_img_{i}.png", f"masks/{patient}1_seg_{i}.png")
        (masks[f"{patient}1/{i}"],) = draw(folder, *names, 1, first=10 * ord(patient) + i).values()
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
    lines = [line for line in seen.text.splitlines() if re.search(f"{other}.* looks like masks too", line)]
    (line,) = lines
    assert truth in line and "confirm" in line
    assert f"# - {line.partition('. ')[2]}" in seen.proposed[FILE]


def test_the_set_s_own_test_images_and_all_photos_are_proposed(tmp_path):
    voc(tmp_path)
    look(tmp_path).write()
    data = load_pairs(str(tmp_path), SIDE)
    assert [name for name, test in zip(data.names, data.official_test) if test] == ["2007_000001", "2007_000002"]
    photos = load_data(str(tmp_path / "photos.yaml"), SIDE)
    assert len(photos) == 20 and photos.masks is None


# Kinds of folders that people bring

def described(folder) -> dict:
    "What look proposes for a folder, after it was written and the set loaded."
    look(folder).write()
    load_pairs(str(folder), SIDE)
    return read_description(folder / FILE).model_dump(exclude_defaults=True, exclude={"root"})


def test_another_program_s_masks_are_named_and_not_taken(tmp_path):
    truth = draw(tmp_path, "img/dna-{}.png", "gt/{}.png")
    for i in truth: save(np.roll(truth[i], 9, 1).astype(np.uint8) * 255, tmp_path / f"auto/dna-{i}.png")
    text = look(tmp_path).text
    assert "auto/{name}.png looks like masks too, of 12 photos. gt/{name}.png is proposed for its name alone" in text
    assert described(tmp_path)["masks"] == ["gt/{name}.png"]


def test_a_value_that_covers_most_is_asked_about_with_the_line_to_write(tmp_path):
    for i in range(12):
        photo, inside = photo_and_mask(i)
        save(photo, tmp_path / f"images/{i}.png")
        save((~inside).astype(np.uint8) * 255, tmp_path / f"masks/{i}.png")
    text = look(tmp_path).text
    assert "255 covers 94% of the pixels. Is 0 the background?" in text and "scores IoU 0.938" in text
    (remedy,) = re.findall("values: {thing: 0, background: 255}", text)
    look(tmp_path).write()
    file = tmp_path / FILE
    file.write_text(file.read_text().replace("\nvalues: {thing: 255}", f"\n{remedy}"))
    assert "background 93.8%, thing 6.2%" in look(tmp_path).text


@pytest.mark.parametrize("of_photo, values, remedy", [
    (lambda i, inside: inside * np.uint8(1 + i % 2), {"class_1": [1], "class_2": [2]}, "values: {thing: [1, 2]}"),
    (lambda i, inside: inside * np.uint16(7 * i + 1), {"thing": ["above 0"]}, "a number for each thing"),
    (lambda i, inside: inside + 2 * np.roll(inside, 15, 0).astype(np.uint8), {"class_1": [1], "class_2": [2]},
     "(beside 0, 12 masks hold 1 in 12, 2 in 12)"),
    (lambda i, inside: np.where(np.pad(inside, 1)[1:-1, 2:] & ~inside, 255, inside * (1 + i % 2)).astype(np.uint8),
     {"class_1": [1], "class_2": [2], "ignore": [255]}, "255 is taken for pixels that count nowhere"),
], ids=["by file", "numbers", "classes", "border"])
def test_values_get_names_to_be_replaced_and_a_remedy(of_photo, values, remedy, tmp_path):
    for i in range(12):
        photo, inside = photo_and_mask(i)
        save(photo, tmp_path / f"images/{i}.png")
        save(of_photo(i, inside), tmp_path / f"masks/{i}.tif")
    text = look(tmp_path).text
    assert remedy in text and f"Names to be replaced: {list(values)[0]}" in text
    assert described(tmp_path)["values"] == values


def test_of_two_values_without_0_one_is_the_background(tmp_path):
    for i in range(12):
        photo, inside = photo_and_mask(i)
        save(photo, tmp_path / f"images/{i}.png")
        save(1 + inside.astype(np.uint8), tmp_path / f"masks/{i}.png")
    assert "No mask holds 0; 1 is taken for the background." in look(tmp_path).text
    assert described(tmp_path)["values"] == {"thing": [2], "background": [1]}


def test_grey_masks_among_coloured_ones_and_colours_without_end(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (200, 3)).astype(np.uint8)
    for i in range(12):
        photo, inside = photo_and_mask(i)
        save(photo, tmp_path / f"images/{i}.png")
        grey = inside.astype(np.uint8) * 255
        save(grey if i % 2 else np.dstack([grey, 0 * grey, 0 * grey]), tmp_path / f"masks/{i}.png")
    assert 'values: {class_1: "#ffffff", class_2: "#ff0000"}' in look(tmp_path).text
    save(np.repeat(colours, 16, 0).reshape(40, 80, 3), tmp_path / "masks/0.png")
    assert "the masks hold 202 colours, too many or too deep for classes" in look(tmp_path).text


def test_values_of_a_palette_are_its_numbers(tmp_path):
    for i in range(12):
        photo, inside = photo_and_mask(i)
        save(photo, tmp_path / f"images/{i}.png")
        save(inside.astype(np.uint8) * (7 if i % 2 else 3), tmp_path / f"masks/{i}.png", VOC)
    assert described(tmp_path)["values"] == {"class_1": [3], "class_2": [7]}


def test_soft_masks_are_cut_half_way(tmp_path):
    draw(tmp_path, "images/{}.png", "masks/{}.png")
    for path in (tmp_path / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    assert "soft edges or JPEG compression" in look(tmp_path).text
    assert described(tmp_path)["values"] == {"thing": ["above 127"]}


def test_a_mask_in_the_alpha_channel_is_found(tmp_path):
    masks = draw(tmp_path, "images/{}.png", "masks/{}.png")
    for i, inside in masks.items():
        save(np.dstack([np.full((SIDE, SIDE, 3), 255), inside * 255]).astype(np.uint8), tmp_path / f"masks/{i}.png")
    assert described(tmp_path)["values"] == {"thing": [255]} and "thing 6.2%" in look(tmp_path).text


@pytest.mark.parametrize("masked, with_photos", [(10, True), (37, False)])
def test_of_photos_with_some_masks_both_sets_are_proposed(masked, with_photos, tmp_path):
    draw(tmp_path, "photos/{:02d}.jpg", "labels/{:02d}.png", 40, masked)
    assert described(tmp_path)["without_mask"] == "leave out"
    assert len(load_pairs(str(tmp_path), SIDE)) == masked
    assert (tmp_path / "photos.yaml").is_file() == with_photos
    if with_photos: assert len(load_data(str(tmp_path / "photos.yaml"), SIDE)) == 40


def test_what_a_perfect_mask_scores_decides_how_pictures_are_taken(tmp_path):
    for i in range(4):
        photo = photo_and_mask(i, (512, 512))[0]
        crack = np.zeros((512, 512), np.uint8)
        x = 60 + np.cumsum(np.random.default_rng(i).integers(-1, 2, 512)).clip(-50, 400)
        for width in (0, 1): crack[np.arange(512), x + width] = 255
        save(photo, tmp_path / f"images/{i}.png")
        save(crack, tmp_path / f"masks/{i}.png")
    text = look(tmp_path).text
    lines = re.findall(r"scores ([\d.]+) at 64 px.*?(squeezed|tiles of \d+)", text)
    scores = {way: float(score) for score, way in lines}
    assert scores["squeezed"] < 0.3 < scores["tiles of 128"] and "the thinnest are about 2 px thick" in text
    assert described(tmp_path)["tile"] == 128


def test_pictures_that_need_no_tiles_get_none(tmp_path):
    for i in range(6):
        photo, inside = photo_and_mask(i, (300, 200), 120)
        save(photo, tmp_path / f"images/{i}.png")
        save(inside.astype(np.uint8), tmp_path / f"masks/{i}.png")
    assert "tile" not in described(tmp_path)


@pytest.mark.parametrize("name, groups", [("patient{:02d}_slice{}", r"(patient\d+)_"), ("s{:02d}-{}", r"(s\d+)\-"),
                                          ("p{:02d}/{}", "folder"), ("frame{:02d}{}", None)])
def test_names_that_come_back_are_groups(name, groups, tmp_path):
    for i, k in product(range(8), range(4)):
        draw(tmp_path, f"images/{name.format(i, k)}.png", f"masks/{name.format(i, k)}.png", 1, first=4 * i + k)
    assert described(tmp_path).get("groups") == groups
    if groups: assert "32 images make 8 groups by likeness and name" in look(tmp_path).text


def test_near_duplicates_are_groups_of_each_split(tmp_path):
    for i, k in product(range(24), range(5)):
        photo, inside = photo_and_mask(i)
        save((photo * (0.7 + 0.12 * k)).clip(0, 255).astype(np.uint8), tmp_path / f"images/{5 * i + k}.png")
        save(inside.astype(np.uint8) * 255, tmp_path / f"masks/{5 * i + k}.png")
    text = look(tmp_path).text
    assert "120 images make 24 groups by likeness, of which 24 hold several images" in text
    assert re.search(r"80%: train \d+ \(\d+ groups\), val \d+ \(\d+ groups\), test 20 \(4 groups\)", text)


def test_a_ratio_that_cannot_be_split_is_told(tmp_path):
    draw(tmp_path, "images/{}.png", "masks/{}.png")
    assert "5%: label_ratio=0.05 of 12 images leaves 1 to train and validate on" in look(tmp_path).text


def test_masks_of_other_sizes_and_turned_photos_are_counted(tmp_path):
    masks = draw(tmp_path, "images/{}.jpg", "masks/{}.png", size=(60, SIDE))
    Image.fromarray(masks[0]).resize((30, 24)).save(tmp_path / "masks/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "images/1.jpg").save(tmp_path / "images/1.jpg", exif=exif)
    text = look(tmp_path).text
    assert "Of 12 looked at, 1 masks have another size than their photos: 0" in text
    assert "Of 12 looked at, 1 photos are turned by EXIF data (see whether outlines fit): 1" in text
    Image.fromarray(masks[2]).resize((SIDE, SIDE)).save(tmp_path / "masks/2.png")
    assert "1 masks are refused, and the set with them" in look(tmp_path).text


@pytest.mark.parametrize("ending, line", [(".mat", "scipy.io.loadmat"), (".npy", "numpy.load"), (".json", "polygon"),
                                          (".xml", "polygon"), (".geojson", "polygon"), (".nii.gz", "nibabel.load")])
def test_masks_that_are_no_images_are_named_with_the_line_that_makes_png_of_them(ending, line, tmp_path):
    draw(tmp_path, "images/{}.png", "", masked=0)
    (tmp_path / "truth").mkdir()
    for i in range(12): (tmp_path / f"truth/{i}{ending}").write_bytes(b"no image")
    text = look(tmp_path).text
    assert f"beside them: 12 .{ending.rpartition('.')[2]}" in text and line in text and "is not read" in text


@pytest.mark.parametrize("value", [0, 255])
def test_masks_without_a_thing_are_no_photos(value, tmp_path):
    for i in range(12):
        save(photo_and_mask(i)[0], tmp_path / f"images/{i}.png")
        save(np.full((SIDE, SIDE), value, np.uint8), tmp_path / f"masks/{i}.png")
    seen = look(tmp_path)
    assert "masks: masks/{name}.png" in seen.proposed[FILE]
    sentence = "What is drawn cannot be told: all masks are 0" if value == 0 else "255 covers 100% of the pixels"
    assert sentence in seen.text


def test_masks_that_no_photo_has_are_not_pretrained_on(tmp_path):
    draw(tmp_path, "photos/{}.jpg", "", masked=0)
    for i, letter in enumerate("abcdefghijkl"):
        save(photo_and_mask(i)[1].astype(np.uint8) * 255, tmp_path / f"masks/of-{letter}.png")
    assert "look like masks, but no photo has their names" in look(tmp_path).text
    look(tmp_path).write()
    assert len(load_data(str(tmp_path), SIDE)) == 12


def test_a_part_of_a_labelled_set_is_named_as_one(tmp_path):
    draw(tmp_path, "images/{}.png", "masks/{}.png")
    assert "part of the labelled set" in look(tmp_path / "images").text


# Files of every kind, and folders that hold none

def test_unreadable_hidden_and_linked_files(tmp_path):
    draw(tmp_path / "store", "images/{}.png", "masks/{}.png", 40)
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("images", "masks"): (folder / part).symlink_to(tmp_path / "store" / part)
    (folder / "round").symlink_to(folder)
    (folder / "images" / "3.png").write_bytes(b"")
    (folder / "masks" / "4.png").write_bytes((folder / "masks" / "4.png").read_bytes()[:50])
    (folder / "images" / "._5.png").write_bytes(b"mark")
    (folder / "images" / "@eaDir").mkdir()
    shutil.copy(folder / "images" / "6.png", folder / "images" / "@eaDir" / "6.png")
    (folder / "images" / "7.png").unlink()
    (folder / "images" / "7.png").symlink_to("nowhere.png")
    text = look(folder).text
    assert "images/ .png: 40 files" in text and "2 of 40 images cannot be read, and are left out" in text
    assert "photos or their masks cannot be read" in text
    look(folder).write()
    assert len(load_pairs(str(folder), SIDE)) == 37


@pytest.mark.parametrize("files", [{}, {"a.txt": b"x"}, {"._a.png": b"x"}, {"a.png": b""},
                                   {"images/a.png": b"", "masks/a.png": b"x"}])
def test_a_folder_without_readable_images_is_told_about(files, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    code, said = run(capsys, folder)
    assert code == 0 and ("no images; simseg reads" in said or "cannot be read" in said)


def test_one_pair_is_a_set(tmp_path):
    draw(tmp_path, "images/{}.png", "masks/{}.png", 1)
    assert described(tmp_path)["masks"] == ["masks/{name}.png"]


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    code, said = run(capsys, tmp_path / "gone")
    assert code == 2 and f"There is no folder {tmp_path / 'gone'}." in said


def test_a_description_that_is_there_is_reported_and_never_replaced(tmp_path, capsys):
    folder = tmp_path / "set"
    draw(folder, "img/{}.png", "gt/{}.png")
    (folder / FILE).write_text("images: img/{name}.png\nmasks: gt/{name}.png\nvalues: {cell: 255}\n")
    code, said = run(capsys, folder)
    assert code == 0 and "values: {cell: 255}" in said and "thing 6.2%" in said and "a proposal" not in said
    before = (folder / FILE).read_text()
    code, said = run(capsys, folder, "--write")
    assert code == 2 and "is there already, and is never replaced" in said and (folder / FILE).read_text() == before


@pytest.mark.parametrize("text, sentence", [
    ("imges: img/{name}.png", "did you mean `images`"), ("images: img/{name}.jpg", "no image fits images"),
    ("images: img/{name}.png\nmasks: gt/{name}.png\nvalues: {cell: 1}", "255 .*, which `values` does not name"),
    ("hub: owner/name", "a set of the hub, which look does not read")])
def test_what_is_wrong_with_a_description_is_told(text, sentence, tmp_path):
    draw(tmp_path, "img/{}.png", "gt/{}.png")
    (tmp_path / FILE).write_text(text)
    assert re.search(sentence, look(tmp_path).text)


def test_photos_yaml_of_somebody_is_not_replaced(tmp_path):
    draw(tmp_path, "photos/{}.png", "gt/{}.png", masked=4)
    (tmp_path / "photos.yaml").write_text("mine")
    with pytest.raises(ValueError, match="photos.yaml is there already"): look(tmp_path).write()
    assert not (tmp_path / FILE).exists()


def test_the_contact_sheet_is_outside_the_folder_and_its_names_are_escaped(tmp_path, capsys, workplace):
    folder = tmp_path / "a set"
    draw(folder, "images/<b>{}&.png", "masks/<b>{}&.png")
    before = sorted(folder.rglob("*"))
    code, said = run(capsys, folder)
    page = workplace / "outputs" / "look" / "a set.html"
    assert code == 0 and f"Outlines to look at: {page}" in said and sorted(folder.rglob("*")) == before
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 12 and "<b>" not in text and "&lt;b&gt;3&amp;" in text
    assert look(folder)._repr_html_() in text
    page.write_text("mine")
    code, said = run(capsys, folder)
    assert code == 2 and "is no page that simseg wrote" in said and page.read_text() == "mine"


def test_of_many_large_pictures_a_sample_is_decoded_and_the_text_says_so(tmp_path, monkeypatch):
    draw(tmp_path, "images/{}.png", "masks/{}.png", 40)
    monkeypatch.setattr("simseg.tools.look.PIXELS", 10 * SIDE**2)
    text = look(tmp_path).text
    assert "Of 40 masks 40" not in text and "among the first" not in text
    monkeypatch.setattr("simseg.tools.look.PIXELS", SIDE**2)
    text = look(tmp_path).text
    assert "Of 40 masks 4 were looked at" in text and "among the first 8 of 40 images" in text


def test_the_same_is_said_twice(tmp_path):
    cityscapes(tmp_path)
    assert look(tmp_path).text == look(tmp_path).text


def draw_any(rng: random.Random, folder):
    "Images and masks of any mode, size and format under names that may pair, some of them damaged."
    folders = rng.choice([("images", "masks"), ("a", "b"), (".", "."), ("x/y", "x/z"), ("t/1", "t/2")])
    for i, k in product(range(rng.choice([1, 2, 5, 9])), range(2)):
        ending = rng.choice(["_m", ""] if k else [""]) + rng.choice([".png", ".tif", ".jpg", ".gif", ".bmp", ".webp"])
        path = folder / folders[k] / f"{rng.choice(['', 'im', 'p1_'])}{i}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (rng.choice([2, 17, 33]), 9, 3)
        pixels = np.random.default_rng(rng.randrange(999)).integers(0, 255, shape).astype(np.uint8)
        if k: pixels = (pixels > rng.choice([0, 128, 254])).astype(np.uint8) * np.uint8(rng.choice([1, 255]))
        image = Image.fromarray(pixels).convert(rng.choice(["1", "L", "P", "RGB", "RGBA", "LA", "I", "F", "CMYK"]))
        try: image.save(path)
        except (OSError, ValueError): path.write_bytes(b"a mode that the format does not have")
        if rng.random() < 0.15: path.write_bytes(path.read_bytes()[:rng.randrange(200)])


def test_any_folder_is_told_about_and_what_is_proposed_parses(tmp_path):
    rng = random.Random(0)
    proposed = 0
    for i in range(60):
        draw_any(rng, tmp_path / str(i))
        seen = look(tmp_path / str(i))
        if not seen.proposed: continue
        for file in seen.write(): proposed += read_description(file).images != []
        assert "says:" in look(tmp_path / str(i)).text
    assert proposed > 50
