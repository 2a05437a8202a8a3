"""Thousands of odd and damaged image files: each must end in a right reading or in one sentence that names the file.

    python tests/fuzz_files.py                        2,000 files; prints how many were read, and how many refused
    python tests/fuzz_files.py --files 500 --seed 7   fewer, others

A file is a drawn picture or mask of a random size, mode, format and EXIF turn, undamaged or with bytes flipped, cut
off, zeroed or put in. `test_fuzz.py` runs a short form of it.
"""
import argparse
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from simseg.images.cache import open_image, read_image
from simseg.images.sets import turn_like
from simseg.images.description import count_values, propose_values
from simseg.images.masks import BACKGROUND, FOREGROUND, as_trimap, parse_values

SECONDS = 30  # that a single file may take, however slow the machine
MODES = {  # mode → formats that can hold it
    "RGB": ["png", "jpg", "tif", "bmp", "webp", "gif", "ppm", "tga"],
    "L": ["png", "jpg", "tif", "bmp", "gif", "pgm"],
    "RGBA": ["png", "tif", "webp", "tga"],
    "LA": ["png", "tif"],
    "P": ["png", "tif", "gif", "bmp"],
    "1": ["png", "tif", "bmp"],
    "CMYK": ["jpg", "tif"],
    "I;16": ["png", "tif"],
    "I": ["tif"],
    "F": ["tif"],
}


def draw(rng: np.random.Generator, is_mask: bool) -> np.ndarray:  # (H, W), uint8
    "A smooth picture, or a mask of 0 and 255, with something of both in it."
    height, width = rng.integers(8, 97, 2)
    noise = Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)).filter(ImageFilter.GaussianBlur(3))
    grey = np.asarray(noise).astype(float)
    grey = (grey - grey.min()) / max(np.ptp(grey), 1) * 255
    return np.where(grey > 128, 255, 0).astype(np.uint8) if is_mask else grey.astype(np.uint8)


def in_mode(grey: np.ndarray, mode: str) -> Image.Image:
    "The picture in a mode, of a depth that fits."
    if mode == "I;16": return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I": return Image.fromarray(grey.astype(np.int32) * 1000)
    if mode == "F": return Image.fromarray(grey.astype(np.float32) / 255)
    return Image.fromarray(grey).convert("RGB" if mode == "CMYK" else "L").convert(mode)


def damage(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    "A file's bytes, changed."
    changed = bytearray(data)
    places = rng.integers(0, len(data), rng.integers(1, 12))
    if kind == "flipped":
        for place in places: changed[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut": del changed[int(places[0]):]
    elif kind == "zeroed": changed[places.min():places.min() + 64] = bytes(min(64, len(data) - int(places.min())))
    elif kind == "put in": changed[int(places[0]):int(places[0])] = rng.bytes(16)
    return bytes(changed)


class Drawn:
    "One file of the fuzz, and what it should be read as."

    def __init__(self, folder: Path, number: int, seed: int):
        rng = np.random.default_rng([seed, number])
        self.is_mask = bool(rng.random() < 0.5)
        self.grey = draw(rng, self.is_mask)
        self.mode = str(rng.choice(list(MODES)))
        ending = str(rng.choice(MODES[self.mode]))
        self.kind = str(rng.choice(["whole", "flipped", "cut", "zeroed", "put in"]))
        self.lossy = ending in ("jpg", "webp")
        self.path = folder / f"{number:05d}.{ending}"
        exif = Image.Exif()
        if rng.random() < 0.3 and ending in ("jpg", "png", "webp"): exif[0x0112] = int(rng.integers(0, 12))
        self.turned = exif.get(0x0112, 1) in range(2, 9)
        picture = in_mode(self.grey, self.mode)
        picture.save(self.path, **({"exif": exif} if len(exif) else {}))
        if self.kind != "whole": self.path.write_bytes(damage(self.path.read_bytes(), self.kind, rng))

    def check_picture(self):
        "Read it as a photo; a whole one must be what was drawn."
        found = read_image(self.path)
        assert found.mode == "RGB" and min(found.size) > 0
        if self.kind != "whole" or self.turned: return
        seen = np.asarray(found).mean(2)
        assert seen.shape == self.grey.shape
        if self.mode == "1" or np.ptp(self.grey) < 60: return  # dithered, or nearly one grey
        assert np.corrcoef(seen.ravel(), self.grey.ravel())[0, 1] > 0.9, "not what was drawn"

    def check_mask(self):
        "Read it as a mask; a whole one must be what was drawn."
        stored = open_image(self.path)
        turned = turn_like(stored, Image.new("RGB", stored.size), self.path, self.path)
        try: values, reason = propose_values(count_values([self.path]))
        except ValueError as error: raise ValueError(f"{self.path}: {error}") from error
        if list(values) != ["thing"] or "above" in str(values): raise ValueError(f"{self.path}: {reason}")
        found = as_trimap(turned, self.path, parse_values(values))
        assert set(np.unique(found)) <= {FOREGROUND, BACKGROUND}
        if self.kind != "whole" or self.turned: return
        assert self.lossy or np.array_equal(found == FOREGROUND, self.grey > 0), "not what was drawn"

    def outcome(self) -> str:  # read, or refused
        "Raises where it ends in anything but a right reading or a sentence that names the file."
        try: self.check_mask() if self.is_mask else self.check_picture()
        except ValueError as error:
            sentence = str(error)
            assert str(self.path) in sentence and "\n" not in sentence and len(sentence) < 500, sentence
            assert self.kind != "whole" or self.lossy or self.turned, f"a whole file was refused: {sentence}"
            return "refused"
        return "read"


def too_slow(number, frame): raise TimeoutError(f"A file took more than {SECONDS} s.")


def fuzz(files: int, seed: int = 0) -> Counter:  # (kind, outcome) → files
    "Draw, damage and read files."
    counts = Counter()
    signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(files):
            drawn = Drawn(Path(folder), number, seed)
            signal.alarm(SECONDS)
            try: counts[drawn.kind, drawn.outcome()] += 1
            except Exception as error:
                raise AssertionError(f"file {number} of seed {seed} ({drawn.mode}, {drawn.path.suffix}, {drawn.kind}, "
                                     f"{'mask' if drawn.is_mask else 'photo'}): {error!r}") from error
            finally: signal.alarm(0)
            drawn.path.unlink()
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.time()
    counts = fuzz(arguments.files, arguments.seed)
    for (kind, outcome), number in sorted(counts.items()): print(f"{kind:8} {outcome:8} {number:5}")
    print(f"{counts.total()} files in {time.time() - start:.0f} s")
