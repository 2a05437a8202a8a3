# %% [markdown]
# # Description
#
# > `data.yaml`: where images and masks lie, how they pair, what the values mean
#
# Nothing is guessed while images are read. A folder says what it holds in a file `data.yaml`. A folder without one is read only
# in the plain case: `images/` and `masks/` with the same names, or images alone. `simseg look` proposes a description.

# %%
#| default_exp images.description

# %%
#| export
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from simseg.base.files import read_typed_yaml, short_path
from simseg.base.parameters import check_known
from simseg.images.files import ENDINGS, FOREIGN, printable, visible_files

# %%
import tempfile

from simseg.base.files import write_yaml

# %% [markdown]
# ## The file
#
# Every key may be left out but `images` or `hub`. A key that is not known is refused, with the nearest known one.

# %%
#| export
FILE = "data.yaml"


class Description(BaseModel, extra="forbid", frozen=True):
    "What a data set holds, as `data.yaml` says."
    root: str = ""  # folder where the patterns begin, seen from the file; "" is the file's own
    images: list[str] = []  # patterns: `{name}` pairs an image with its mask, `*` is anything, `**` any folders
    masks: list[str] = []  # the same; with `*`, all files that fit make one mask. Empty: an unlabelled set
    without_mask: Literal["refuse", "leave out"] = "refuse"  # an image of a labelled set that has no mask
    values: dict[str, list[int | str]] = {}  # thing → values: a number, "#rrggbb", or "above 0"
    border: int | None = None  # value of pixels at a thing's edge, which a stage's `border` counts as it says
    groups: str = ""  # a pattern with one capture, applied to an image's path, or "folder": these stay together
    tile: int = Field(0, ge=0)  # pixels of the original that become one training image; 0 squeezes all of it into one
    test: str = ""  # file with the names of the set's own test images, one a line
    hub: str = ""  # a set of the Hugging Face hub, or a folder of its parquet files, instead of patterns
    image: str = "image"  # its columns
    mask: str = ""
    label: str = ""

    @field_validator("images", "masks", mode="before")
    @classmethod
    def one_is_a_list(cls, value): return [value] if isinstance(value, str) else value

    @field_validator("values", mode="before")
    @classmethod
    def each_is_a_list(cls, value):
        if not isinstance(value, dict): raise ValueError("write thing: value, such as values: {cell: 255}")
        return {name: each if isinstance(each, list) else [each] for name, each in value.items()}


def read_description(file: Path) -> Description:
    "Return what a file says; raise `ValueError` with file and line for what cannot be meant."
    values, places = read_typed_yaml(file, lambda keys, value: False)
    check_known(f"key of {short_path(file)}", values, Description.model_fields)
    try: description = Description(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        sentence = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{places[key,]}: `{key}` is {values[key]!r}: {sentence[0].lower()}{sentence[1:]}.") from None
    if bool(description.images) == bool(description.hub):
        raise ValueError(f"{short_path(file)} is to say either where the `images` are or which `hub` set it is.")
    for key in ("images", "masks"):
        for pattern in getattr(description, key):
            if "{name}" not in pattern:
                raise ValueError(f"{places[key,]}: {pattern} has no {{name}}; write it as {key}/{{name}}.png, so that an "
                                 "image can be paired with its mask.")
    return description


# %%
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / FILE
    file.write_text('images: img/{name}.png\nmasks: gt/{name}.png\nvalues: {cell: 255}\n', encoding="utf-8")
    assert read_description(file).values == {"cell": [255]}
    for wrong in ("image: a.png", "mask: b/{name}.png", "imges: img/{name}.png", "images: img/a.png", "images: [1]",
                  "images: '{name}.png'\nvalues: 3", "images: '{name}.png'\ntile: -1"):
        file.write_text(wrong, encoding="utf-8")
        try: read_description(file)
        except ValueError as error: print(str(error).replace(folder, "…"))
        else: raise AssertionError(wrong)

# %% [markdown]
# ## Which mask belongs to which image
#
# A pattern is a path below the root. `{name}` stands for what an image and its mask have in common, and may come twice
# (`{name}/images/{name}.png`). Where all patterns have `**`, what it stands for is in common, too.

# %%
#| export
WILD = {"**/": r"(?:[^/]+/)*", "*": "[^/]*"}


def _as_regex(pattern: str) -> re.Pattern:
    "Return the regular expression of a pattern; an ending fits in capitals, too."
    body, dot, ending = pattern.rpartition(".")
    parts = re.split(r"(\{name\}|\*\*/|\*)", body if dot else ending)
    said = set()
    regex = ""
    for part in parts:
        group = {"{name}": ("name", "[^/]+"), "**/": ("above", WILD["**/"])}.get(part)
        if group is None: regex += WILD.get(part, re.escape(part))
        elif group[0] in said: regex += f"(?P={group[0]})"
        else: regex += f"(?P<{group[0]}>{group[1]})"
        said |= {group[0]} if group else set()
    return re.compile(regex + (f"(?i:\\.{'[^./]+' if ending == '*' else re.escape(ending)})" if dot else ""))


@dataclass
class Files:
    "The files of a described set."
    images: dict[str, Path]  # name → file, in the order of names
    masks: dict[str, list[Path]]  # name → files that make its mask; empty for an unlabelled set
    alone: list[Path]  # masks without an image
    bare: list[str]  # names of images without a mask


def find_files(description: Description, root: Path, where: str) -> Files:  # `where` names the description in messages
    "Return the files of a description; raise `FileNotFoundError` or `ValueError` where images and masks do not pair."
    paths = {}
    for path in visible_files(root):
        if path.suffix.lower() not in {*ENDINGS, *FOREIGN}: continue
        paths[unicodedata.normalize("NFC", printable(path.relative_to(root).as_posix()))] = path
    with_folders = all("**/" in pattern for pattern in [*description.images, *description.masks])
    named = {}
    for key in ("images", "masks"):
        named[key] = {}
        for pattern in getattr(description, key):
            regex = _as_regex(unicodedata.normalize("NFC", pattern))
            for text, path in paths.items():
                fits = regex.fullmatch(text)
                if not fits: continue
                name = (fits["above"] if with_folders else "") + fits["name"]
                named[key].setdefault(name, []).append(path)
        if getattr(description, key) and not named[key]:
            raise FileNotFoundError(f"{where}: no image fits {key}: {', '.join(getattr(description, key))}; below {root} "
                                    f"are {len(paths)} images{', such as ' + min(paths) if paths else ''}.")
    united = any("*" in pattern.replace("**/", "") for pattern in description.masks)
    for key, several in (("images", False), ("masks", united)):
        for name, files in named[key].items():
            if len(files) > 1 and not several:
                raise ValueError(f"{where}: {files[0]} and {files[1]} are both called {name}; rename one, or write ** in "
                                 "all patterns where folders have the same files.")
    images = {name: named["images"][name][0] for name in sorted(named["images"])}
    bare = [name for name in images if description.masks and name not in named["masks"]]
    alone = [path for name, files in named["masks"].items() if name not in images for path in files]
    if bare and (description.without_mask == "refuse" or len(bare) == len(images)):
        spare = f", and {len(alone)} masks have no image, such as {alone[0].name}" if alone else ""
        remedy = "" if len(bare) == len(images) else '; add "without_mask: leave out", or give them masks'
        raise FileNotFoundError(f"{where}: {len(bare)} of {len(images)} images have no mask, such as "
                                f"{images[bare[0]].name}{spare}{remedy}.")
    return Files(images, named["masks"], alone, bare)


# %%
def drawn(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


with tempfile.TemporaryDirectory() as folder:
    root = drawn(Path(folder), "img/dna-1.PNG", "img/dna-2.png", "gt/1.png", "gt/2.png", "auto/dna-1.png")
    files = find_files(Description(images="img/dna-{name}.png", masks="gt/{name}.png"), root, FILE)
    assert list(files.masks) == ["1", "2"] and files.masks["1"][0].parent.name == "gt"
with tempfile.TemporaryDirectory() as folder:  # one mask a nucleus, a folder an image
    root = drawn(Path(folder), *[f"{a}/images/{a}.png" for a in "ab"], *[f"{a}/masks/{i}.png" for a in "ab" for i in "123"])
    files = find_files(Description(images="{name}/images/{name}.png", masks="{name}/masks/*.png"), root, FILE)
    assert {name: len(masks) for name, masks in files.masks.items()} == {"a": 3, "b": 3}
with tempfile.TemporaryDirectory() as folder:  # the same names in several folders
    root = drawn(Path(folder), *[f"{part}/{town}/{town}_1_{end}.png" for town in "xy" for part, end in (("left", "l8"), ("fine", "ids"))])
    files = find_files(Description(images="left/**/{name}_l8.png", masks="fine/**/{name}_ids.png"), root, FILE)
    assert list(files.images) == ["x/x_1", "y/y_1"] == list(files.masks)
with tempfile.TemporaryDirectory() as folder:
    root = drawn(Path(folder), "photos/1.jpg", "photos/2.jpg", "labels/1.png")
    asked = Description(images="photos/{name}.jpg", masks="labels/{name}.png")
    try: find_files(asked, root, FILE)
    except FileNotFoundError as error: print(error)
    assert find_files(asked.model_copy(update={"without_mask": "leave out"}), root, FILE).bare == ["2"]
