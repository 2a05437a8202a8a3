"""Folders and files of the kinds that people bring: each is read rightly, or refused or left out in a sentence. Every
test draws its own few pictures."""
import hashlib
import os
import re
import shutil
import struct
import time
import unicodedata
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import small
from PIL import Image

from simseg.base.files import read_json
from simseg.images import sets
from simseg.images.cache import find_image_files, open_image
from simseg.images.data import read_known, split_data
from simseg.images.sets import files_fingerprint, load_data, load_pairs, load_unlabelled
from simseg.evaluation import run_evaluation
from simseg.images.masks import BACKGROUND, FOREGROUND, IGNORED
from simseg.tools.command import main
from simseg.simclr import run_simclr
from simseg.evidence.statistics import image_interval
from simseg.study.results import count_pixels
from simseg.study.grid import MINIATURE
from simseg.study.files import check_study
from simseg.images.synthetic import make_synthetic
from simseg.unet import load_model, run_unet

SIDE = 48
ANIMALS = make_synthetic(60, SIDE)
PHOTOS = [Image.fromarray(image.transpose(1, 2, 0)) for image in ANIMALS.images]
THINGS = [np.where(mask != BACKGROUND, 255, 0).astype(np.uint8) for mask in ANIMALS.masks]
HALVES = np.zeros((SIDE, SIDE), np.uint8)
HALVES[:, SIDE // 2:] = 255  # a mask whose turns and mirror images are told apart


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache of its own for every test."
    monkeypatch.setenv("SIMSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photos(folder, count=12, first=0):
    "Photos without masks."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count): PHOTOS[i].save(folder / f"{i:02d}.png")
    return folder


def pairs(folder, count=12, first=0):
    "Photos in images/, masks of 0 and 255 in masks/."
    photos(folder / "images", count, first)
    (folder / "masks").mkdir(exist_ok=True)
    for i in range(first, first + count): Image.fromarray(THINGS[i]).save(folder / "masks" / f"{i:02d}.png")
    return folder


# One picture, through the command

@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "The folder of a model that has learnt nothing."
    out = tmp_path_factory.mktemp("model")
    run_unet(small("unet", out, epochs=0))
    return out / "model"


def predict(model, folder, capsys):  # exit code, what was said
    arguments = ["predict", str(folder), "--model", str(model), "--out", f"{folder}.out"]
    with pytest.raises(SystemExit) as ended: main(arguments)
    said = capsys.readouterr()
    return ended.value.code or 0, said.out + said.err


def save_half(name):
    def save(folder):
        whole = folder / name
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
        whole.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    return save


def save_pages(folder):
    one, *others = (picture.copy() for picture in PHOTOS[1:4])  # Pillow remembers how a picture was saved before
    one.save(folder / "stack.tif", save_all=True, append_images=others)


def save_deep_colours(folder):
    "16 bits a colour, of which twelve are used."
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.full((8, 8, 3), 4000))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (folder / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def save_bomb(folder):
    "A file that claims to be larger than any memory."
    PHOTOS[0].save(folder / "large.bmp")
    data = bytearray((folder / "large.bmp").read_bytes())
    data[18:26] = (60000).to_bytes(4, "little") * 2
    (folder / "large.bmp").write_bytes(data)


UNREADABLE = {
    "nothing": (lambda folder: (folder / "x.jpg").touch(), "x.jpg is empty"),
    "half a JPEG": (save_half("x.jpg"), "x.jpg cannot be read as an image: .*truncated"),
    "half a PNG": (save_half("x.png"), "x.png cannot be read as an image"),
    "half a TIFF": (save_half("x.tif"), "x.tif cannot be read as an image"),
    "text": (lambda folder: (folder / "x.png").write_text("text"), "Pillow knows no such format"),
    "a phone's": (lambda folder: (folder / "x.HEIC").write_bytes(b"ftypheic"), "pip install pillow-heif"),
    "raw": (lambda folder: (folder / "x.nef").write_bytes(b"raw"), "is NEF, .* save it as PNG or TIFF"),
    "medical": (lambda folder: (folder / "x.dcm").write_bytes(b"DICM"), "is DCM, .* save it as PNG"),
    "a link to nowhere": (lambda folder: (folder / "x.jpg").symlink_to("gone.jpg"), "link to a file that is not there"),
    "pages": (save_pages, "holds 3 pages; save each"),
    "black": (save_deep_colours, "save it with 8 bits"),
    "a bomb": (save_bomb, "has more than 500 megapixels; cut it into tiles"),
    "a folder": (lambda folder: (folder / "x.jpg").mkdir(), ""),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(kind, tmp_path, model, capsys):
    save, sentence = UNREADABLE[kind]
    folder = photos(tmp_path / "photos", 1)
    save(folder)
    code, said = predict(model, folder, capsys)
    assert code == (1 if sentence else 0)
    assert "1 mask(s) written" in said
    lines = [line for line in said.splitlines() if line.startswith("simseg:")]
    assert len(lines) == (1 if sentence else 0)
    assert not sentence or re.search(sentence, lines[0])


GREY = np.asarray(PHOTOS[0].convert("L"))


def deep(values):
    return lambda path: Image.fromarray(values).save(path)


def missing_runs(values):
    values = values.copy()
    values[0, 0] = np.nan
    return values


READ_AS_GREY = {  # kind → how it is saved, ending
    "16 bits": (deep(GREY.astype(np.uint16) * 200 + 500), "tif"),
    "12 bits of 16": (deep(GREY.astype(np.uint16) * 16), "tif"),
    "16-bit PNG": (deep(GREY.astype(np.uint16) * 257), "png"),
    "32 bits": (deep(GREY.astype(np.int32) * 70000), "tif"),
    "signed": (deep(GREY.astype(np.int32) - 1000), "tif"),
    "float to 1": (deep(GREY.astype(np.float32) / 255), "tif"),
    "float with holes": (deep(missing_runs(GREY.astype(np.float32) * 3 - 7)), "tif"),
    "grey": (deep(GREY), "png"),
    "grey JPEG": (deep(GREY), "jpg"),
    "upper-case": (deep(GREY), "PNG"),
    "grey, opaque": (lambda path: Image.fromarray(GREY).convert("LA").save(path), "png"),
    "CMYK": (lambda path: Image.fromarray(GREY).convert("RGB").convert("CMYK").save(path), "tif"),
    "palette": (lambda path: Image.fromarray(GREY).convert("P").save(path), "png"),
    "GIF": (lambda path: Image.fromarray(GREY).save(path), "gif"),
    "WebP": (lambda path: Image.fromarray(GREY).convert("RGB").save(path, lossless=True), "webp"),
    "another format than its name": (lambda path: Image.fromarray(GREY).save(path, format="PNG"), "jpg"),
}


@pytest.mark.parametrize("kind", READ_AS_GREY)
def test_every_depth_and_mode_is_what_one_sees(kind, tmp_path):
    save, ending = READ_AS_GREY[kind]
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / f"x.{ending}")
    (seen,) = load_unlabelled(str(tmp_path / "photos"), SIDE).images
    assert np.ptp(seen.astype(int), axis=0).max() <= 2  # grey
    assert np.corrcoef(seen[0].ravel(), GREY.ravel())[0, 1] > 0.97
    assert seen.mean() < 250


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode, tmp_path):
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    (tmp_path / "photos").mkdir()
    if mode == "P": Image.new("P", (32, 32)).save(tmp_path / "photos" / "x.png", transparency=0)
    else: picture.convert(mode).save(tmp_path / "photos" / "x.png")
    assert (load_unlabelled(str(tmp_path / "photos"), 32).images == 255).all()


# Which files are pictures

def test_hidden_names_are_no_pictures_and_linked_folders_are(tmp_path):
    folder = photos(tmp_path / "photos", 4)
    (folder / "._00.png").write_bytes(b"\0\5\x16\7")
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "00.png", folder / ".ipynb_checkpoints" / "00-checkpoint.png")
    (folder / "linked").symlink_to(photos(tmp_path / "elsewhere", 5, 10))
    (folder / "round").symlink_to(folder)
    (folder / "twice").symlink_to(tmp_path / "elsewhere")
    assert len(load_unlabelled(str(folder), 32)) == 9


def test_a_picture_in_two_formats_is_taken_once(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    (folder / "00.heic").write_bytes(b"ftypheic")
    assert [path.name for path in find_image_files(folder)] == ["00.png", "01.png"]


def damaged(folder, count):
    "Some of the photos emptied."
    for path in sorted(folder.iterdir())[:count]: path.write_bytes(b"")
    return folder


def test_damaged_files_are_left_out_named_and_listed(tmp_path, capsys):
    folder = damaged(photos(tmp_path / "photos", 40), 2)
    out = tmp_path / "out"
    run_simclr(small("simclr", out, dataset=str(folder), max_images=0, epochs=0))
    said = capsys.readouterr().out
    assert said.count("is empty.") == 2 and "2 file(s)" in said
    skipped = pd.read_csv(out / "skipped.csv", dtype=str)
    assert skipped["file"].tolist() == ["00", "01"] and skipped["why"].str.contains("is empty").all()
    assert len(load_unlabelled(str(folder), 32)) == 38


def test_beyond_a_share_of_damaged_files_the_run_stops(tmp_path):
    folder = damaged(photos(tmp_path / "photos", 10), 2)
    sentence = "2 of 10 images of .* more than a share of 0.1; repair or remove them: .*00.png is empty"
    with pytest.raises(ValueError, match=sentence):
        load_unlabelled(str(folder), 32)
    damaged(folder, 10)
    with pytest.raises(ValueError, match="None of 10 images can be read: .*00.png is empty"):
        load_unlabelled(str(folder), 32)


def test_damaged_pairs_are_left_out_together(tmp_path):
    folder = pairs(tmp_path / "own", 24)
    damaged(folder / "images", 1)
    (folder / "masks" / "05.png").write_bytes(b"")
    data = load_pairs(str(folder), 32)
    assert len(data) == len(data.masks) == 22 and len(data.skipped) == 2
    assert "05" not in data.names


# Masks

def mask_folder(tmp_path, save, ending="png", count=6):
    "A labelled folder whose masks are drawn by `save(mask array, path)`."
    folder = pairs(tmp_path / "own", count)
    for path in sorted((folder / "masks").iterdir()):
        values = np.asarray(Image.open(path))
        path.unlink()
        save(values, path.with_suffix(f".{ending}"))
    return folder


def with_palette(numbers, palette, path):
    mask = Image.frombytes("P", numbers.shape[::-1], numbers.astype(np.uint8).tobytes())
    mask.putpalette(palette)
    mask.save(path)


def colour(values, rgb): return Image.fromarray((values[..., None] // 255 * np.array(rgb)).astype(np.uint8))


def soft(values):
    from PIL import ImageFilter
    return Image.fromarray(values).resize((SIDE * 8, SIDE * 8)).filter(ImageFilter.GaussianBlur(2))


SAME_MASK = {  # kind → how it is saved, ending
    "0 and 1": (lambda m, p: Image.fromarray(m // 255).save(p), "png"),
    "1 bit": (lambda m, p: Image.fromarray(m).convert("1").save(p), "png"),
    "16 bits": (lambda m, p: Image.fromarray(m.astype(np.uint16) * 257).save(p), "png"),
    "16 bits of 0 and 1": (lambda m, p: Image.fromarray(m.astype(np.uint16) // 255).save(p), "tif"),
    "32 bits": (lambda m, p: Image.fromarray(m.astype(np.int32) * 1000).save(p), "tif"),
    "float": (lambda m, p: Image.fromarray(m.astype(np.float32) / 255).save(p), "tif"),
    "alpha": (lambda m, p: Image.fromarray(np.dstack([m * 0 + 255] * 3 + [m])).save(p), "png"),
    "alpha on black": (lambda m, p: Image.fromarray(np.dstack([m * 0] * 3 + [m])).save(p), "png"),
    "grey with alpha": (lambda m, p: Image.fromarray(np.dstack([m * 0 + 9, m])).save(p), "png"),
    "cut out of its photo": (lambda m, p: Image.fromarray(np.dstack([ANIMALS.images[0].transpose(1, 2, 0), m])).save(p),
                             "png"),
    "colours and alpha agree": (lambda m, p: Image.fromarray(np.dstack([m] * 4)).save(p), "png"),
    "opaque alpha": (lambda m, p: Image.fromarray(np.dstack([m] * 3 + [m * 0 + 255])).save(p), "png"),
    "palette of colours": (lambda m, p: with_palette(m // 255, [0, 0, 0, 128, 0, 0], p), "png"),
    "palette of greys": (lambda m, p: with_palette(m // 255 * 7, [0, 0, 0] * 7 + [128] * 3, p), "png"),
    "red": (lambda m, p: colour(m, (255, 0, 0)).save(p), "png"),
    "dark blue": (lambda m, p: colour(m, (0, 0, 1)).save(p), "png"),
    "BMP": (lambda m, p: Image.fromarray(m).save(p), "bmp"),
}


@pytest.mark.parametrize("kind", SAME_MASK)
def test_a_mask_is_the_same_in_every_form(kind, tmp_path):
    folder = mask_folder(tmp_path, *SAME_MASK[kind])
    found = load_pairs(str(folder), SIDE).masks != BACKGROUND
    assert np.array_equal(found, np.stack(THINGS[:6]) > 0)


REFUSED_MASK = {  # kind → how it is saved, ending, sentence
    "JPEG": (lambda m, p: Image.fromarray(m).save(p, quality=80), "jpg", r"JPEG compression.*\{thing: above 127\}"),
    "soft": (lambda m, p: Image.fromarray(np.asarray(soft(m).resize((SIDE, SIDE), Image.Resampling.BICUBIC))).save(p),
             "png", r"soft edges.*\{thing: above 127\}"),
    "classes": (lambda m, p: Image.fromarray(m // 255 + (HALVES // 255)).save(p), "png",
                r"beside 0, 6 masks hold 1 in 6, 2 in 6.*values: \{class_1: 1, class_2: 2\}"),
    "no zero": (lambda m, p: Image.fromarray(m // 255 + 1).save(p), "png",
                r"6 masks hold 1 in 6, 2 in 6.*values: \{thing: 2, background: 1\}"),
    "two colours": (lambda m, p: Image.fromarray(np.dstack([m, HALVES, m * 0])).save(p), "png",
                    'values: .*class_1: "#00ff00", class_2: "#ff0000", class_3: "#ffff00"'),
    "WebP": (lambda m, p: Image.fromarray(m).save(p, quality=60), "webp", r"JPEG compression.*\{thing: above 127\}"),
    "palette of greys, white first": (lambda m, p: with_palette(1 - m // 255, [255, 255, 255, 0, 0, 0], p), "png",
                                      r"shows 0 lighter than 1, .*values: \{thing: 0, background: 1\}"),
    "contradiction": (lambda m, p: Image.fromarray(np.dstack([m] * 3 + [255 - m])).save(p), "png",
                      "one thing in its colours and another in its transparency"),
    "another size": (lambda m, p: Image.fromarray(m[:40]).save(p), "png", "is 48×40 pixels, but its image is 48×48"),
    "empty": (lambda m, p: Image.fromarray(m * 0).save(p), "png", "all masks are 0 throughout"),
    "full": (lambda m, p: Image.fromarray(m * 0 + 255).save(p), "png", "All 6 masks are full"),
    "damaged": (lambda m, p: p.write_bytes(b""), "png", "None of 6 images can be read: .*is empty"),
}


@pytest.mark.parametrize("kind", REFUSED_MASK)
def test_a_mask_that_could_be_misread_is_refused_by_name(kind, tmp_path, cache):
    save, ending, sentence = REFUSED_MASK[kind]
    folder = mask_folder(tmp_path, save, ending)
    with pytest.raises(ValueError, match=f"(?s){sentence}"): load_pairs(str(folder), SIDE)
    assert not [path for path in cache.iterdir() if path.is_dir()]  # and nothing half-done stays


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "soft"])
def test_soft_masks_are_cut_half_way_when_told_to(kind, tmp_path):
    save, ending, _ = REFUSED_MASK[kind]
    folder = mask_folder(tmp_path, save, ending)
    (folder / "data.yaml").write_text(PLAIN + "values: {thing: above 127}\n")
    data = load_pairs(str(folder), SIDE)
    wrong = (data.masks != BACKGROUND) != (np.stack(THINGS[:6]) > 0)
    assert wrong.mean() < 0.03


def test_some_empty_masks_are_counted_and_said(tmp_path, capsys):
    folder = pairs(tmp_path / "own", 24)
    for i in (3, 4): Image.new("L", (SIDE, SIDE)).save(folder / "masks" / f"{i:02d}.png")
    run_unet(small("unet", tmp_path / "out", dataset=str(folder), max_images=0, epochs=0))
    assert "2 of 24 masks are empty, such as 03." in capsys.readouterr().out


def turned_pair(folder, size, orientation, mask):
    "One photo whose EXIF data turn it, and its mask."
    for part in ("images", "masks"): (folder / part).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    PHOTOS[0].resize(size).save(folder / "images" / "x.jpg", exif=exif)
    mask.save(folder / "masks" / "x.png")
    return folder


def test_a_mask_is_turned_as_its_photo_is(tmp_path):
    lying = Image.fromarray(HALVES).resize((60, 40), Image.Resampling.NEAREST)  # its right half is the thing
    before = load_pairs(str(turned_pair(tmp_path / "before", (60, 40), 6, lying)), SIDE).masks[0] != BACKGROUND
    upright = lying.transpose(Image.Transpose.ROTATE_270)
    after = load_pairs(str(turned_pair(tmp_path / "after", (60, 40), 6, upright)), SIDE).masks[0] != BACKGROUND
    assert np.array_equal(before, after) and before[-1].all() and not before[0].any()


@pytest.mark.parametrize("size, orientation", [((48, 48), 6), ((60, 40), 3), ((60, 40), 2)])
def test_a_turn_that_size_does_not_tell_is_refused(size, orientation, tmp_path):
    mask = Image.fromarray(HALVES).resize(size, Image.Resampling.NEAREST)
    folder = turned_pair(tmp_path / "own", size, orientation, mask)
    with pytest.raises(ValueError, match="x.jpg is turned by its EXIF data, .*save the photo upright"):
        load_pairs(str(folder), SIDE)


# Which folder is what

PLAIN = "images: images/{name}.*\nmasks: masks/{name}.*\n"


@pytest.mark.parametrize("name", ["labels", "SegmentationClass", "gt", "annotations"])
def test_other_names_of_folders_are_described_and_their_masks_never_pretrained_on(name, tmp_path):
    folder = pairs(tmp_path / "own", 12)
    (folder / "masks").rename(folder / name)
    (folder / "images").rename(folder / "JPEGImages")
    with pytest.raises(ValueError, match=f"{name}/.*looks like a mask.*simseg look"): load_pairs(str(folder), SIDE)
    (folder / "data.yaml").write_text(f"images: JPEGImages/{{name}}.png\nmasks: {name}/{{name}}.png\n")
    data = load_pairs(str(folder), SIDE)
    assert np.array_equal(data.masks != BACKGROUND, np.stack(THINGS[:12]) > 0)
    out = tmp_path / "out"
    run_simclr(small("simclr", out, dataset=str(folder), max_images=0, epochs=0, batch_size=2))
    test = split_data(data).test
    seen = set(read_known(out / "learnt_from.safetensors")["ids"])
    assert not seen & {data.ids[i] for i in test} and len(seen) + len(test) == 12
    with pytest.raises(ValueError, match="is a part of the labelled set"):
        load_unlabelled(str(folder / "JPEGImages"), SIDE)


@pytest.mark.parametrize("before, behind", [("", "_mask"), ("", "-seg"), ("mask_", ""), ("m.", ".gt")])
def test_masks_with_an_addition_are_described(before, behind, tmp_path):
    folder = pairs(tmp_path / "own")
    for path in sorted((folder / "masks").iterdir()): path.rename(path.with_name(f"{before}{path.stem}{behind}.png"))
    sentence = f"12 masks have no image, such as {before}00{behind}.png; .*simseg look"
    with pytest.raises(FileNotFoundError, match=sentence): load_pairs(str(folder), SIDE)
    (folder / "data.yaml").write_text(PLAIN.replace("masks/{name}.*", f"masks/{before}{{name}}{behind}.png"))
    assert np.array_equal(load_pairs(str(folder), SIDE).masks != BACKGROUND, np.stack(THINGS[:12]) > 0)


def test_a_folder_beside_masks_that_looks_like_masks_too_is_asked_about(tmp_path):
    folder = pairs(tmp_path / "own")
    shutil.copytree(folder / "masks", folder / "another_program")
    with pytest.raises(ValueError, match="masks/ and another_program/, which looks like masks too"):
        load_pairs(str(folder), SIDE)
    (folder / "data.yaml").write_text(PLAIN)
    assert len(load_pairs(str(folder), SIDE)) == 12


def test_an_image_without_a_mask_is_left_out_only_where_it_is_said(tmp_path):
    folder = pairs(tmp_path / "own")
    (folder / "masks" / "05.png").unlink()
    with pytest.raises(FileNotFoundError, match="(?s)1 of 12 images have no mask, such as 05.png.*") as error:
        load_pairs(str(folder), SIDE)
    (folder / "data.yaml").write_text(str(error.value).partition("data.yaml:\n")[2].rstrip("."))  # as it says
    data = load_pairs(str(folder), SIDE)
    assert len(data) == 11 and [row["file"] for row in data.skipped] == ["05"]


def test_a_mask_of_half_the_size_is_read_and_one_of_other_proportions_is_not(tmp_path):
    folder = mask_folder(tmp_path, lambda m, p: Image.fromarray(m).resize((24, 24), Image.Resampling.NEAREST).save(p))
    assert ((load_pairs(str(folder), SIDE).masks != BACKGROUND) == (np.stack(THINGS[:6]) > 0)).mean() > 0.95


VALUES = {  # what masks hold by file → values, and what a mask of 1 and one of 2 then mean
    "one thing": ("{thing: [1, 2]}", FOREGROUND, FOREGROUND), "above": ("{thing: above 0}", FOREGROUND, FOREGROUND),
    "two things": ("{cat: 1, dog: 2}", FOREGROUND, 4),
    "one counts nowhere": ("{cat: 1, ignore: 2}", FOREGROUND, IGNORED),
    "background": ("{cat: 1, background: [0, 2]}", FOREGROUND, BACKGROUND),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_differ_by_file_mean_what_is_said(kind, tmp_path):
    folder = pairs(tmp_path / "own", 6)
    for i in range(6): Image.fromarray(THINGS[i] // 255 * (1 + i % 2)).save(folder / "masks" / f"{i:02d}.png")
    with pytest.raises(ValueError, match="1 in 3, 2 in 3"): load_pairs(str(folder), SIDE)
    values, odd, even = VALUES[kind]
    (folder / "data.yaml").write_text(f"{PLAIN}values: {values}\n")
    masks = load_pairs(str(folder), SIDE).masks
    for i in range(6): assert set(np.unique(masks[i][THINGS[i] > 0])) == {even if i % 2 else odd}


def test_several_masks_of_an_image_are_one(tmp_path):
    folder = tmp_path / "own"
    for i in range(6):
        (folder / str(i) / "masks").mkdir(parents=True)
        PHOTOS[i].save(folder / str(i) / f"{i}.png")
        for half in (0, 1):
            part = THINGS[i].copy()
            part[:, half * SIDE // 2:(half + 1) * SIDE // 2] = 0
            Image.fromarray(part).save(folder / str(i) / "masks" / f"{half}.png")
    (folder / "data.yaml").write_text("images: '{name}/{name}.png'\nmasks: '{name}/masks/*.png'\n")
    assert np.array_equal(load_pairs(str(folder), SIDE).masks != BACKGROUND, np.stack(THINGS[:6]) > 0)


def test_a_description_may_lie_elsewhere(tmp_path):
    "Beside a folder that cannot be written to; what it says is part of what the set is."
    pairs(tmp_path / "own", 12)
    file = tmp_path / "mine.yaml"
    file.write_text(f"root: own\n{PLAIN}values: {{thing: 255}}\n")
    data = load_pairs(str(file), SIDE)
    assert np.array_equal(data.masks != BACKGROUND, np.stack(THINGS[:12]) > 0)
    before = files_fingerprint(str(file))
    file.write_text(f"root: own\n{PLAIN}values: {{thing: 0, background: 255}}\n")
    assert files_fingerprint(str(file)) != before
    assert np.array_equal(load_pairs(str(file), SIDE).masks == BACKGROUND, np.stack(THINGS[:12]) > 0)


def test_patients_stay_on_one_side_and_are_not_pretrained_on(tmp_path):
    folder = pairs(tmp_path / "own", 30)
    for part in ("images", "masks"):
        for i in range(30): (folder / part / f"{i:02d}.png").rename(folder / part / f"patient{i // 3}_slice{i % 3}.png")
    (folder / "data.yaml").write_text(f"{PLAIN}groups: '(patient\\d+)_'\n")
    data = load_pairs(str(folder), SIDE)
    patient = np.array([name.partition("_")[0] for name in data.names])
    for seed in range(4):
        part = split_data(data, 0.4, split_seed=seed, label_seed=seed)
        sides = [set(patient[indices]) for indices in (part.train, part.val, part.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2]) and len(sides[2]) == 2
    photo = photos(tmp_path / "photos", 30)
    for i in range(30): (photo / f"{i:02d}.png").rename(photo / f"patient{i // 3}_other{i % 3}.png")
    for path in photo.iterdir(): Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)  # other images
    (photo / "data.yaml").write_text("images: '{name}.png'\ngroups: '(patient\\d+)_'\n")
    out = tmp_path / "out"
    run_simclr(small("simclr", out, dataset=str(photo), leave_out=str(folder), max_images=0, epochs=0, batch_size=2))
    seen = set(read_known(out / "learnt_from.safetensors")["groups"])
    assert len(seen) == 8 and not seen & set(patient[split_data(data).test])


def test_an_encoders_test_images_are_official_where_a_file_names_them(tmp_path):
    folder = pairs(tmp_path / "own", 30)
    (folder / "test.txt").write_text("03\n04.png\n")
    (folder / "data.yaml").write_text(f"{PLAIN}test: test.txt\n")
    data = load_pairs(str(folder), SIDE)
    assert [data.names[i] for i in split_data(data, split="official").test] == ["03", "04"]


def test_most_of_the_pixels_being_the_thing_is_said(tmp_path):
    folder = mask_folder(tmp_path, lambda m, p: Image.fromarray(255 - m // 5).save(p))
    (folder / "data.yaml").write_text(f"{PLAIN}values: {{ground: 255, background: 204}}\n")
    (note,) = load_pairs(str(folder), SIDE).notes
    assert re.search(r"the thing covers \d\d% of the pixels.*swap", note)


def test_a_mask_without_an_image_is_listed(tmp_path):
    folder = pairs(tmp_path / "own")
    (folder / "images" / "05.png").unlink()
    data = load_pairs(str(folder), SIDE)
    assert len(data) == 11 and [row["file"] for row in data.skipped] == ["05.png"]


@pytest.mark.parametrize("part", ["images", "masks"])
def test_two_files_of_one_name_are_refused(part, tmp_path):
    folder = pairs(tmp_path / "own")
    Image.open(folder / part / "05.png").save(folder / part / "05.bmp")
    with pytest.raises(ValueError, match="05.bmp and .*05.png have the same name"): load_pairs(str(folder), SIDE)


def test_accents_are_the_same_in_one_character_or_two(tmp_path):
    folder = pairs(tmp_path / "own")
    (folder / "images" / "05.png").rename(folder / "images" / unicodedata.normalize("NFC", "Jérôme.png"))
    (folder / "masks" / "05.png").rename(folder / "masks" / unicodedata.normalize("NFD", "Jérôme.png"))
    assert len(load_pairs(str(folder), SIDE)) == 12


def test_masks_are_never_pretrained_on(tmp_path):
    folder = pairs(tmp_path / "train" / "own")
    for part in ("images", "masks"):
        with pytest.raises(ValueError, match="is a part of the labelled set"): load_unlabelled(str(folder / part), SIDE)
    with pytest.raises(ValueError, match="holds a labelled set in .*own"):
        load_unlabelled(str(tmp_path / "train"), SIDE)
    beside = photos(tmp_path / "beside")
    for path in sorted((folder / "masks").iterdir()): shutil.copy(path, beside / f"{path.stem}_mask.png")
    with pytest.raises(ValueError, match="_mask.png looks like a mask"): load_unlabelled(str(beside), SIDE)
    jpegs = tmp_path / "jpegs"
    jpegs.mkdir()
    for i in range(6):
        PHOTOS[i].save(jpegs / f"{i}.jpg")
        Image.fromarray(THINGS[i]).save(jpegs / f"{i}.png")
    with pytest.raises(ValueError, match="png looks like a mask"): load_unlabelled(str(jpegs), SIDE)
    (jpegs / "data.yaml").write_text("images: '{name}.jpg'\n")
    assert len(load_unlabelled(str(jpegs), SIDE)) == 6


def test_classes_with_the_same_names_are_no_labelled_set(tmp_path):
    photos(tmp_path / "photos" / "Cat", 6)
    photos(tmp_path / "photos" / "Dog", 6, 20)
    for i, path in enumerate(sorted((tmp_path / "photos" / "Dog").iterdir())):
        path.rename(path.with_name(f"{i:02d}.png"))
    assert load_unlabelled(str(tmp_path / "photos"), SIDE).labels.tolist() == [0] * 6 + [1] * 6


def test_masks_of_jpeg_are_masks_all_the_same(tmp_path):
    folder = pairs(tmp_path / "own")
    (folder / "masks").rename(folder / "labels")
    for path in sorted((folder / "labels").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(ValueError, match="looks like a mask"): load_unlabelled(str(folder), SIDE)


# Which images: learnt from, and tested on

def finetuned(folder, out, **changed):
    run_unet(small("unet", out, dataset=str(folder), max_images=0, epochs=0, **changed))
    return out / "model"


def evaluated(folder, model, out, **changed):
    params = small("evaluation", out, dataset=str(folder), max_images=0, model_dir=str(model), **changed)
    return run_evaluation(params)


def test_a_test_image_is_not_one_that_was_learnt_from(tmp_path, capsys):
    folder = pairs(tmp_path / "own", 30)
    model = finetuned(folder, tmp_path / "unet")
    evaluated(folder, model, tmp_path / "same")
    with pytest.raises(ValueError, match="was trained with split_seed=0"):
        evaluated(folder, model, tmp_path / "other", split_seed=1)
    with pytest.raises(ValueError, match="The model learnt from . of the 6 test images"):
        evaluated(f"{folder}/", model, tmp_path / "other", split_seed=1)
    for part in ("images", "masks"):  # the same pictures elsewhere, under other names and re-saved
        (tmp_path / "again" / part).mkdir(parents=True)
        for path in (folder / part).iterdir():
            Image.open(path).save(tmp_path / "again" / part / f"IMG_{path.stem}.{'jpg' if part == 'images' else 'png'}")
    with pytest.raises(ValueError, match="The model learnt from"):
        evaluated(tmp_path / "again", model, tmp_path / "other", split_seed=3)


def test_images_that_are_added_move_few_others(tmp_path):
    folder = pairs(tmp_path / "own", 30)
    before = load_pairs(str(folder), SIDE)
    first = {before.ids[i] for i in split_data(before).test}
    pairs(folder, 6, 40)
    after = load_pairs(str(folder), SIDE)
    second = {after.ids[i] for i in split_data(after).test}
    learnt = set(before.ids) - first
    assert len(second) == 7 and len(second & learnt) <= 1 and len(first & second) >= 4


def test_a_studys_pretraining_leaves_out_the_test_images_of_its_labelled_set(tmp_path):
    folder = pairs(tmp_path / "own", 30)
    unlabelled = photos(tmp_path / "photos", 20, 35)
    for path in sorted((folder / "images").iterdir()):
        Image.open(path).save(unlabelled / f"IMG_{path.stem}.jpg", quality=92)
    out = tmp_path / "simclr"
    params = small("simclr", out, dataset=str(unlabelled), max_images=0, epochs=0, leave_out=str(folder), batch_size=8)
    run_simclr(params)
    metrics = read_json(out / "metrics.json")
    assert (metrics["n_left_out"], metrics["n_train"] + metrics["n_val"]) == (6, 44)


def test_elsewhere_the_evaluation_says_what_was_pretrained_on(tmp_path, capsys):
    folder = pairs(tmp_path / "own", 30)
    unlabelled = photos(tmp_path / "photos", 30)
    run_simclr(small("simclr", tmp_path / "simclr", dataset=str(unlabelled), max_images=0, epochs=0, batch_size=8))
    model = finetuned(folder, tmp_path / "unet", encoder=str(tmp_path / "simclr"))
    evaluated(folder, model, tmp_path / "evaluation")
    assert "pretrained on 6 of the 6 test images" in capsys.readouterr().out


def test_runs_on_different_test_images_are_not_compared(tmp_path):
    first = pd.DataFrame({"name": ["a", "b"], "id": ["1", "2"], "tp": [9, 9], "fp": [1, 1], "fn": [1, 1], "tn": [5, 5]})
    other = first.assign(id=["1", "3"])
    image_interval(count_pixels([first, first]), count_pixels([first, first]))
    with pytest.raises(ValueError, match="tested on different images"): count_pixels([first, other])
    with pytest.raises(ValueError, match="tested on different images"):
        image_interval(count_pixels([first, first]), count_pixels([other, other]))


# Near-duplicates

def scene(folder, count, seed=0):
    "A camera that stands still: one scene, a small part somewhere else in each picture."
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"): (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        noise = rng.normal(0, 6, (SIDE, SIDE, 3))
        picture = (np.asarray(PHOTOS[50]) + noise).clip(0, 255).astype(np.uint8)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        y, x = rng.integers(4, SIDE - 8, 2)
        picture[y:y + 4, x:x + 4] = (200, 30, 30)
        mask[y:y + 4, x:x + 4] = 255
        Image.fromarray(picture).save(folder / "images" / f"part_{i:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"part_{i:03d}.png")
    return folder


@pytest.mark.parametrize("surround", [0, 255])
def test_a_surround_that_all_share_makes_no_near_duplicates(surround, tmp_path):
    "Different textures in a disc, as of an eye's ground; one of them is there twice, saved again."
    for part in ("images", "masks"): (tmp_path / part).mkdir()
    rows = np.arange(80)[:, None] - 40
    disc = (rows**2 + (np.arange(80) - 40) ** 2 <= 37**2)[..., None]
    for i in range(40):
        coarse = np.random.default_rng(i).integers(100, 140, (9, 9, 3)).astype(np.uint8)
        texture = np.asarray(Image.fromarray(coarse).resize((80, 80), Image.Resampling.BICUBIC))
        photo = Image.fromarray(np.where(disc, texture, surround).astype(np.uint8))
        photo.save(tmp_path / "images" / f"{i}.png")
        if i == 7: photo.save(tmp_path / "images" / "again.jpg", quality=85)
    for path in (tmp_path / "images").iterdir():
        mask = np.zeros((80, 80), np.uint8)
        mask[30:50, 30:50] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{path.stem}.png")
    data = load_pairs(str(tmp_path), SIDE)
    twice = [name for name, group in zip(data.names, data.groups) if (data.groups == group).sum() > 1]
    assert sorted(twice) == ["7", "again"] and not data.notes


@pytest.mark.parametrize("others, n_test", [(0, 8), (30, 14)])
def test_a_scene_does_not_swallow_a_side_of_the_split(others, n_test, tmp_path):
    folder = scene(tmp_path / "camera", 40)
    if others: pairs(folder, others)
    data = load_pairs(str(folder), SIDE)
    part = split_data(data)
    assert len(part.test) == n_test and len(part.train) > 20
    (note,) = data.notes
    assert note.startswith(f"40 of {len(data)} images, such as part_000, are near-duplicates")
    model = finetuned(folder, tmp_path / "unet")
    evaluated(folder, model, tmp_path / "evaluation")


def test_near_duplicates_stay_together(tmp_path):
    folder = pairs(tmp_path / "own", 30)
    for i in range(30):  # each photo again, darker
        Image.fromarray(np.asarray(PHOTOS[i]) // 2).save(folder / "images" / f"{i:02d}_dark.png")
        Image.fromarray(THINGS[i]).save(folder / "masks" / f"{i:02d}_dark.png")
    data = load_pairs(str(folder), SIDE)
    test = {data.names[i][:2] for i in split_data(data).test}
    assert len(test) == 6 and len(set(data.groups)) == 30


def test_copies_stay_together_always(tmp_path):
    folder = pairs(tmp_path / "own", 20)
    for part in ("images", "masks"):
        for i in range(20): shutil.copy(folder / part / f"{i:02d}.png", folder / part / f"copy_{i:02d}.png")
    data = load_pairs(str(folder), SIDE)
    assert len(set(data.groups)) == 20
    split = split_data(data)
    assert not {data.ids[i] for i in split.test} & {data.ids[i] for i in np.r_[split.train, split.val]}


def test_the_largest_group_is_never_in_the_test_set_whole(tmp_path):
    folder = pairs(tmp_path / "own", 38)
    for i in range(3):
        darker = Image.fromarray((np.asarray(PHOTOS[0]) * (0.9 - i / 10)).astype(np.uint8))
        darker.save(folder / "images" / f"00_{i}.png")
        Image.fromarray(THINGS[0]).save(folder / "masks" / f"00_{i}.png")
    data = load_pairs(str(folder), SIDE)
    group = np.flatnonzero(data.groups == data.groups[0])
    assert len(group) == 4
    for seed in range(8):
        part = split_data(data, split_seed=seed)
        assert not set(group) <= set(part.test) and len(part.test) == 8


def test_a_set_that_is_one_picture_over_and_over_is_refused(tmp_path):
    folder = pairs(tmp_path / "own", 1)
    for part in ("images", "masks"):
        for i in range(9): shutil.copy(folder / part / "00.png", folder / part / f"copy_{i}.png")
    with pytest.raises(ValueError, match="none can be a test image"): split_data(load_pairs(str(folder), SIDE))


# Names, rooms, permissions

def test_dollars_in_names_are_drawn_as_they_stand(tmp_path):
    folder = pairs(tmp_path / "own", 12)
    for part in ("images", "masks"):
        for i, path in enumerate(sorted((folder / part).iterdir())):
            path.rename(path.with_name(f"cost_${i}_and_$\\frac{i}.png"))
    model = finetuned(folder, tmp_path / "unet")
    evaluated(folder, model, tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "worst.png").exists()


def test_a_name_too_long_for_its_mask_is_refused_before_work_begins(tmp_path, model, capsys):
    folder = photos(tmp_path / "photos", 2)
    PHOTOS[0].save(folder / f"{'x' * 245}.png")
    code, said = predict(model, folder, capsys)
    assert code == 2 and "is too long" in said and not Path(f"{folder}.out").exists()


def test_a_disk_without_room_for_the_cache_is_noticed(tmp_path, cache, monkeypatch):
    folder = photos(tmp_path / "photos")
    usage = namedtuple("usage", "total used free")(2000, 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match="MB free, but decoding these images takes .* choose another SIMSEG_CACHE"):
        load_unlabelled(str(folder), SIDE)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos")
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMSEG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="The cache .*file/cache cannot be made .*set SIMSEG_CACHE"):
        load_unlabelled(str(folder), SIDE)


def test_two_copies_of_a_data_set_leave_one_another_alone(tmp_path, cache):
    for name in ("one", "two"): load_unlabelled(str(photos(tmp_path / name)), SIDE)
    assert len(list(cache.glob("folder-*"))) == 2


def rewrite(mask, changed):
    "In place, with the dates it had."
    status = mask.stat()
    mask.write_bytes(changed)
    os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(mask, changed):
    "By another file of the same dates, as cp -p, rsync -t and unzip do."
    status = mask.stat()
    other = mask.with_suffix(".new")
    other.write_bytes(changed)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(mask)


def later(monkeypatch):
    "So long after the last change that contents are remembered."
    now = time.time()
    monkeypatch.setattr("simseg.images.cache.time", namedtuple("Time", "time")(lambda: now + 60))


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("change", [rewrite, replace])
def test_a_mask_that_was_drawn_anew_is_read_anew(change, remembered, tmp_path, monkeypatch):
    "Of the same size, and with the same date as before."
    folder = pairs(tmp_path / "own")
    mask = (folder / "masks" / "03.png").rename(folder / "masks" / "03.bmp")
    Image.fromarray(THINGS[3]).save(mask)
    if remembered: later(monkeypatch)
    before = load_pairs(str(folder), SIDE)
    old = mask.read_bytes()
    Image.fromarray(THINGS[5]).save(tmp_path / "other.bmp")
    changed = (tmp_path / "other.bmp").read_bytes()
    assert len(changed) == len(old) and changed != old
    dates = mask.stat().st_mtime_ns
    change(mask, changed)
    assert mask.stat().st_mtime_ns == dates
    after = load_pairs(str(folder), SIDE)
    assert after.fingerprint != before.fingerprint and (after.masks[3] != before.masks[3]).any()
    change(mask, old)
    assert load_pairs(str(folder), SIDE).fingerprint == before.fingerprint


def test_what_changes_no_content_makes_no_other_set(tmp_path, cache, monkeypatch):
    "Other dates, permissions, a hard link: nothing is decoded again, and no run of a study runs again."
    folder = pairs(tmp_path / "own")
    later(monkeypatch)
    before = files_fingerprint(str(folder))
    load_pairs(str(folder), SIDE)
    os.utime(folder / "images" / "00.png", (0, 0))
    (folder / "images" / "01.png").chmod(0o600)
    os.link(folder / "images" / "02.png", tmp_path / "backup.png")
    monkeypatch.setattr(sets, "open_image", None)  # nothing is read
    load_pairs(str(folder), SIDE)
    assert files_fingerprint(str(folder)) == before
    assert files_fingerprint(shutil.copytree(folder, tmp_path / "copy")) == before
    shutil.rmtree(cache)
    assert files_fingerprint(str(folder)) == before


def test_contents_are_read_again_only_after_a_change(tmp_path, cache, monkeypatch):
    "A change just now could be followed by another that no clock tells apart, so that it is not yet relied on."
    folder = photos(tmp_path / "photos")
    read = []
    true_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or true_digest(file, name))
    now = time.time()
    monkeypatch.setattr("simseg.images.cache.time", namedtuple("Time", "time")(lambda: now))
    for _ in range(2): files_fingerprint(str(folder))
    assert len(read) == 24
    later(monkeypatch)
    for _ in range(2): files_fingerprint(str(folder))
    assert len(read) == 36
    for memory in cache.glob(".contents-*"): memory.write_text("damaged")
    files_fingerprint(str(folder))
    assert len(read) == 48


def test_another_meaning_of_the_values_makes_another_set(tmp_path):
    folder = pairs(tmp_path / "own")
    before = files_fingerprint(str(folder))
    (folder / "data.yaml").write_text(PLAIN + "values: {cell: 255}\n")
    assert files_fingerprint(str(folder)) != before


def test_what_a_folder_held_before_leaves_the_cache(tmp_path, cache):
    folder = photos(tmp_path / "photos")
    load_unlabelled(str(folder), SIDE)
    load_unlabelled(str(folder), 32)
    (folder / "notes.txt").write_text("no picture")
    assert len(load_unlabelled(str(folder), SIDE)) == 12 and len(list(cache.glob("folder-*"))) == 2
    PHOTOS[20].save(folder / "20.png")
    assert len(load_unlabelled(str(folder), SIDE)) == 13 and len(list(cache.glob("folder-*"))) == 2


DAMAGED_MODEL = {
    "model.safetensors": "The model in .* cannot be opened",
    "config.json": "config.json cannot be read",
    "preprocessing.json": "preprocessing.json cannot be read",
}


@pytest.mark.parametrize("name", DAMAGED_MODEL)
def test_a_model_that_was_cut_off_is_refused(name, tmp_path, model, capsys):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(ValueError, match=DAMAGED_MODEL[name]): load_model(tmp_path / "model")
    code, said = predict(tmp_path / "model", photos(tmp_path / "photos", 1), capsys)
    assert code == 2 and said.count("\n") == 1


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "", "-x", "x" * 200])
def test_a_study_has_a_name_that_a_folder_can_have(name):
    with pytest.raises(ValueError, match="is to name a folder"): check_study({**MINIATURE, "name": name})


def test_a_folder_that_is_not_there_and_one_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="is neither a folder"): load_data(str(tmp_path / "gone"), 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no images; simseg reads"): load_data(str(tmp_path / "empty"), 32)


def test_names_of_an_old_disk_are_printed_and_written(tmp_path, capsys):
    "Their accents are no UTF-8."
    folder = pairs(tmp_path / "own", 12)
    for part in ("images", "masks"):
        (folder / part / "05.png").rename(os.fsdecode(os.fsencode(folder / part) + b"/caf\xe9.png"))
    Path(os.fsdecode(os.fsencode(folder / "images") + b"/gar\xe7on.png")).touch()
    Image.fromarray(THINGS[0]).save(os.fsdecode(os.fsencode(folder / "masks") + b"/gar\xe7on.png"))
    model = finetuned(folder, tmp_path / "unet")
    capsys.readouterr()
    evaluated(folder, model, tmp_path / "evaluation")
    assert "gar�on.png is empty" in capsys.readouterr().out.encode("utf-8").decode("utf-8")
    assert (tmp_path / "evaluation" / "per_image.csv").exists()


def test_a_batch_run_that_fails_ends_in_one_sentence(tmp_path, papermill):
    folder = damaged(photos(tmp_path / "photos", 10), 2)
    done = papermill("2_simclr", dataset=str(folder), out_dir=str(tmp_path / "out"), epochs=0)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"ValueError: 2 of 10 images of .* cannot be read, .*00.png is empty.", last)
    assert "Traceback" not in done.stderr


# Large pictures

def claims(path, width, height):
    "A PNG of no pixels that claims to have many."
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_a_scan_of_196_megapixels_is_read(tmp_path):
    Image.new("1", (14_000, 14_000)).save(tmp_path / "scan.png")
    assert open_image(tmp_path / "scan.png").size == (14_000, 14_000)


@pytest.mark.parametrize("width, height, why", [
    (60_000, 60_000, "has more than 500 megapixels; cut it into tiles, or save it smaller."),
    (1, 600_000_000, "has more than 500 megapixels; cut it into tiles, or save it smaller."),
    (14_000, 14_000, "cannot be read as an image: "),
    (0, 10, "cannot be read as an image: "),
])
def test_a_picture_that_claims_too_much_is_left_out_by_name(width, height, why, tmp_path):
    folder = photos(tmp_path / "photos")
    claims(folder / "claims.png", width, height)
    read = load_unlabelled(str(folder), SIDE)
    assert len(read) == 12
    (skipped,) = read.skipped
    assert skipped["why"].startswith(f"{folder / 'claims.png'} {why}")


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (1, 1)])
def test_a_picture_may_have_any_shape(size, tmp_path):
    folder = photos(tmp_path / "photos")
    Image.new("RGB", size, "red").save(folder / "thin.png")
    read = load_unlabelled(str(folder), SIDE)
    assert len(read) == 13 and not read.skipped
    assert (read.images[read.names.index("thin")] == np.array([255, 0, 0])[:, None, None]).all()


def test_large_images_are_read_one_at_a_time(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 3)
    for i in range(4): Image.new("RGB", (SIDE + 1 + i, SIDE)).save(folder / f"large_{i}.png")
    monkeypatch.setattr("simseg.images.cache.LARGE", SIDE * SIDE)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    in_memory = []
    together = []

    def slowly(image):
        if image.width == SIDE: return image
        in_memory.append(image)
        time.sleep(0.05)
        together.append(len(in_memory))
        in_memory.remove(image)
        return image

    monkeypatch.setattr("simseg.images.cache.as_rgb", slowly)
    assert len(load_unlabelled(str(folder), SIDE)) == 7 and together == [1] * 8  # when read, and when decoded
