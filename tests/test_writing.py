"Nothing that somebody has is replaced or removed: each command among folders that hold other things."
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nbformat.v4 as nbf
import numpy as np
import papermill
import pytest
import torch
from conftest import ROOT, small
from PIL import Image
from test_status import pretend
from torch._subclasses.fake_tensor import FakeTensorMode

from simseg.augmentations import normalise
from simseg.tools.command import main
from simseg.base.files import write_atomic, write_yaml
from simseg.images.cache import clear_cache, list_cache
from simseg.images.sets import load_data
from simseg.tools import predict
from simseg.tools.predict import export_onnx, predict_files
from simseg.base.run import RUN_FILES, clear_run
from simseg.study.grid import MINIATURE
from simseg.study.files import check_study
from simseg.unet import load_model, make_unet, run_unet, save_model


def picture(path: Path, value: int = 90, size=(24, 20)) -> Path:
    "An image file of somebody."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


def text(path: Path, content: str = "mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def seen(folder: Path) -> dict:  # path → what tells that it was replaced or changed
    "All that lies below a folder; a link is itself, not what it leads to."
    stats = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (s.st_ino, s.st_mode, *(() if path.is_dir() else (s.st_size, s.st_mtime_ns)))
            for path, s in stats.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "The folder of a model that has learnt nothing."
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained") / "model"
    return save_model(make_unet("scratch", "resnet18"), folder, {"image_size": 32})


@pytest.fixture
def quick(model, monkeypatch):
    "Models are opened once, and ONNX is a file of a few bytes."
    opened = load_model(model)
    monkeypatch.setattr(predict, "load_model", lambda *arguments: opened)
    monkeypatch.setattr(predict, "_onnx_difference", lambda *arguments: 0.0)

    class Program:
        def save(self, path): path.write_bytes(b"onnx")

    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: Program())
    return model


def simseg(capsys, *arguments) -> tuple[int, str]:
    "The exit code of a command in this process, and what it said."
    with pytest.raises(SystemExit) as ended: main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return ended.value.code, said.out + said.err


# One way to write

def a_link_to(target):
    def make(path): path.symlink_to(target)
    return make


IN_THE_WAY = {  # what is at the target → how it is made
    "a folder": lambda path: text(path / "notes.txt"),
    "an empty folder": lambda path: path.mkdir(),
    "a link to a file": a_link_to("notes.txt"),
    "a link to a folder": a_link_to("things"),
    "a link that leads nowhere": a_link_to("nowhere"),
    "a pipe": os.mkfifo,
    "a protected file": lambda path: text(path).chmod(0o444),
}


@pytest.fixture
def place(tmp_path):
    "A folder with a few things of somebody."
    folder = tmp_path / "place"
    text(folder / "notes.txt")
    text(folder / "things" / "thing.txt")
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_is_no_plain_file_is_never_replaced(what, overwrite, place):
    IN_THE_WAY[what](place / "mask.png")
    before = seen(place)
    with pytest.raises(ValueError, match="mask.png is .*choose another"):
        write_atomic(place / "mask.png", lambda path: path.write_text("new"), overwrite)
    assert seen(place) == before


@pytest.mark.parametrize("name", ["notes.txt/mask.png", "notes.txt/deep/mask.png", "pipe/mask.png"])
def test_a_file_is_no_folder(name, place):
    os.mkfifo(place / "pipe")
    with pytest.raises(ValueError, match="is no folder that you may write to"):
        write_atomic(place / name, lambda path: path.write_text("new"))


def test_a_file_that_is_there_is_replaced_only_where_asked(place):
    before = seen(place)
    with pytest.raises(ValueError, match="notes.txt is there already.*--overwrite"):
        write_atomic(place / "notes.txt", lambda path: path.write_text("new"), overwrite=False)
    assert seen(place) == before
    os.link(place / "notes.txt", place / "other.txt")
    write_atomic(place / "notes.txt", lambda path: path.write_text("new"), overwrite=True)
    assert [(place / name).read_text() for name in ("notes.txt", "other.txt")] == ["new", "mine"]


def test_a_file_that_came_meanwhile_stays(place):
    def write(path):
        path.write_text("new")
        text(place / "late.txt")

    with pytest.raises(ValueError, match="late.txt is there already"): write_atomic(place / "late.txt", write, False)
    assert (place / "late.txt").read_text() == "mine"


def test_no_temporary_name_is_one_that_somebody_has(place):
    for name in (f".mask.{os.getpid()}.png", ".mask.png", "mask.png.tmp"): text(place / name)
    before = seen(place)
    write_atomic(place / "mask.png", lambda path: path.write_text("new"))
    with pytest.raises(ZeroDivisionError): write_atomic(place / "other.png", lambda path: 1 / 0)
    assert {path: was for path, was in seen(place).items() if path in before} == before
    assert set(seen(place)) - set(before) == {place / "mask.png"}


def test_a_model_goes_into_no_folder_that_holds_another(model, tmp_path):
    network, _ = load_model(model)
    text(tmp_path / "theirs" / "README.md")
    text(tmp_path / "theirs" / "data.csv")
    before = seen(tmp_path)
    with pytest.raises(ValueError, match="README.md is there already"):
        save_model(network, tmp_path / "theirs", {"image_size": 32})
    assert seen(tmp_path) == before


def test_a_run_replaces_its_model_and_nothing_beside_it(tmp_path):
    params = small("unet", tmp_path, epochs=2, stop_after=1)
    run_unet(params)
    text(tmp_path / "model" / "notes.txt")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    run_unet({**params, "stop_after": 0})
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != before
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("params", ["", "lr: 0.1\n", "- a\n- b\n", "a: [\n"])
@pytest.mark.parametrize("name", ["model", "tracker", "history.csv"])
def test_what_only_bears_the_name_of_a_runs_file_is_never_cleared(name, params, tmp_path):
    text(tmp_path / name / "mine.txt" if "." not in name else tmp_path / name)
    if params: text(tmp_path / "params.yaml", params)
    before = seen(tmp_path)
    with pytest.raises(ValueError, match="which no run of simseg has left there"): clear_run(tmp_path)
    assert seen(tmp_path) == before and name in RUN_FILES


# Predictions

@pytest.fixture
def photos(place):
    for name in ("cat.png", "dog.jpg", "trip/sheep.png"): picture(place / "photos" / name)
    return place / "photos"


def test_predictions_go_to_found(quick, photos, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    code, said = simseg(capsys, "predict", "photos", "--model", quick)
    assert code == 0 and "3 mask(s) written to found" in said
    assert Image.open(place / "found" / "trip" / "sheep.png").size == (24, 20)


def test_what_is_there_is_said_before_anything_is_written(quick, photos, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    simseg(capsys, "predict", "photos/cat.png", "--model", quick, "--no-overlay")
    before = seen(place)
    code, said = simseg(capsys, "predict", "photos", "--model", quick)
    assert code == 2 and seen(place) == before
    assert "1 of 6 files are there already, such as" in said and "found/cat.png" in said and "--overwrite" in said
    code, said = simseg(capsys, "predict", "photos", "--model", quick, "--overwrite")
    assert code == 0 and "found/cat.png; they will be replaced" in said
    before = seen(place / "found")
    code, said = simseg(capsys, "predict", "photos", "--model", quick, "--overwrite")
    assert code == 0 and "6 of 6 files are there already" in said
    assert seen(place / "found").keys() == before.keys()


@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("name", ["cat.png", "trip/sheep.overlay.jpg"])
def test_what_bears_the_name_of_a_mask_stays(what, name, quick, photos, place):
    target = place / "found" / name
    target.parent.mkdir(parents=True)
    IN_THE_WAY[what](target)
    before = seen(place)
    with pytest.raises(ValueError, match="choose another|Choose another"):
        predict_files([photos], quick, place / "found", overwrite=True)
    assert seen(place) == before


@pytest.mark.parametrize("images, masks, out", [
    ("images", "masks", "masks"), ("images", "masks", "masks/new"), ("images", None, "masks"),
    ("img", "gt", "gt"), ("img", "labels", "labels"), ("img", "gt", "../set/gt"), ("img", "gt", "link"),
    ("img", "gt", "img"), ("img", "gt", "img/new"), ("img", "gt", "."),
])
def test_no_prediction_goes_among_drawn_masks_or_photos(images, masks, out, quick, place):
    "Of the images of the set or of others, with --overwrite or without."
    picture(place / "set" / images / "cat.jpg")
    if masks: picture(place / "set" / masks / "cat.png", 255)
    if out == ".": picture(place / "set" / "overview.jpg")
    if out == "link": (place / "set" / "link").symlink_to("gt")
    other = picture(place / "new" / "cow.jpg")
    before = seen(place)
    for overwrite in (False, True):
        for given in (place / "set" / images, other):
            if out == "img/new" and given == other: continue  # a new folder of somebody's choice, with nothing in it
            with pytest.raises(ValueError, match="[Cc]hoose another output folder"):
                predict_files([given], quick, place / "set" / out, overwrite=overwrite)
    assert seen(place) == before


@pytest.mark.parametrize("first, second", [
    ("a/cat.jpg", "a/cat.png"), ("a/cat.jpg", "b/cat.jpg"), ("a/Cat.jpg", "a/cat.jpg"),
    ("a/k\u00e4tzchen.jpg", "a/ka\u0308tzchen.jpg"), ("a/cat.jpg", "a/cat.png/dog.jpg"),
    ("a/cat.jpg", "a/cat.overlay.jpg/dog.jpg"), ("a/Cat.jpg", "a/cat.PNG/dog.jpg"),
])
def test_two_images_that_would_write_one_file_are_refused(first, second, quick, place):
    given = [place / "a"] if second.startswith("a/") else [place / "a", place / "b"]
    for name in (first, second): picture(place / name)
    before = seen(place)
    with pytest.raises(ValueError, match="predict them into two folders"): predict_files(given, quick, place / "found")
    assert seen(place) == before


def test_an_image_called_as_an_overlay_is_no_reason_to_refuse(quick, place):
    for name in ("cat.jpg", "cat.overlay.jpg"): picture(place / "a" / name)
    masks, unread = predict_files([place / "a"], quick, place / "found")
    assert len(masks) == 2 and not unread and len(list((place / "found").iterdir())) == 4


@pytest.mark.parametrize("given", ["pipe.png", "nowhere.png"])
def test_what_is_no_file_is_no_image(given, quick, place):
    os.mkfifo(place / "pipe.png")
    with pytest.raises(FileNotFoundError, match="There is no image or folder"):
        predict_files([place / given], quick, place / "found")


# Export

@pytest.mark.parametrize("path", ["", ".", "..", "things", "things/", "new/", "new", "new.onnx/", "notes.txt",
                                  "pipe.onnx", "there.onnx", "folder.onnx", "link.onnx", "notes.txt/new.onnx"])
def test_an_export_replaces_nothing(path, quick, place, monkeypatch, capsys):
    text(place / "there.onnx")
    text(place / "folder.onnx" / "notes.txt")
    (place / "link.onnx").symlink_to("notes.txt")
    os.mkfifo(place / "pipe.onnx")
    monkeypatch.chdir(place)
    before = seen(place)
    code, said = simseg(capsys, "export", quick, "--onnx", path)
    assert code == 2 and seen(place) == before and said.strip(), said
    code, said = simseg(capsys, "export", quick, "--onnx", path, "--overwrite")
    if path == "there.onnx": assert code == 0 and (place / path).read_bytes() == b"onnx"
    else: assert code == 2 and seen(place) == before, said


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_an_export_whose_check_failed_is_not_kept(difference, quick, place, monkeypatch):
    monkeypatch.setattr(predict, "_onnx_difference", lambda *arguments: difference)
    text(place / "there.onnx")
    before = seen(place)
    for name, overwrite in [("new.onnx", False), ("there.onnx", True)]:
        with pytest.raises(ValueError, match="do not use it"): export_onnx(quick, place / name, overwrite=overwrite)
    assert seen(place) == before


FIRST = {
    "the command": "import sys; from simseg.tools.command import main; "
                   "main(['export', sys.argv[1], '--onnx', sys.argv[2]])",
    "the function": "import sys; from simseg.tools.predict import export_onnx; print(export_onnx(*sys.argv[1:]))",
}


@pytest.mark.parametrize("first", [pytest.param("the command", marks=pytest.mark.slow), "the function"])
def test_an_export_is_the_first_thing_that_a_process_does(first, model, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FIRST[first], model, tmp_path / "model.onnx"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "model.onnx").stat().st_size > 1e6


TRACERS = {"fake tensors": FakeTensorMode, "inference mode": torch.inference_mode}


@pytest.mark.parametrize("tracer", TRACERS)
def test_nothing_that_a_tracer_made_is_kept(tracer):
    with TRACERS[tracer](): normalise(torch.rand(1, 3, 4, 4))
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    normalise(images).sum().backward()
    assert type(normalise(images.detach())) is torch.Tensor and images.grad.numpy().all()


# The cache

@pytest.fixture
def cache(place, monkeypatch):
    "A cache in a folder that holds other things, some of them with the names of decoded sets."
    monkeypatch.setenv("SIMSEG_CACHE", str(place))
    for name in ("folder-64px-holiday", "folder-64px-0123456789abcdef", ".folder-64px-0123456789abcdef", "x-64px-y"):
        text(place / name / "images.npy")
    text(place / "folder-64px-holiday" / "meta.json", '{"mine": 1}')
    text(place / "x-64px-y" / "meta.json", "[1]")
    return place


def test_a_cache_removes_only_what_it_decoded(cache, tmp_path, capsys):
    before = seen(cache)
    for value in (10, 20):  # the second time the set holds something else, and what was decoded before goes
        picture(tmp_path / "photos" / "cat.png", value)
        picture(tmp_path / "photos" / "dog.png", value + 100)
        load_data(str(tmp_path / "photos"), 64)
    (name,) = list_cache()["name"]
    (cache / "linked-64px-y").symlink_to(name)
    text(cache / name / "notes.txt")
    photos = str(tmp_path / "photos")
    for names in (["..", name], ["."], [photos], ["x-64px-y"], ["linked-64px-y"], [f"../place/{name}"]):
        with pytest.raises(ValueError, match="is no set in the cache"): clear_cache(names)
    code, _ = simseg(capsys, "cache", "--clear")
    assert code == 0 and list_cache().empty and (cache / name / "notes.txt").exists()
    after = seen(cache)
    assert {path: after.get(path) for path in before} == before


# Reports

STUDY = check_study({**MINIATURE, "name": "mine", "device": "cpu", "precision": "fp32"})


def executed_notebook(path, failing: bool):
    "Stand in for papermill: leave a report, or the half of one."
    tags = {"tags": ["parameters"]}
    notebook = nbf.new_notebook(cells=[nbf.new_code_cell("x = 1", metadata=tags), nbf.new_markdown_cell("What holds")])
    notebook.metadata["papermill"] = {"version": "0"}
    Path(path).write_text(json.dumps(notebook), encoding="utf-8")
    if failing: raise ValueError("there is no evaluated cell")


@pytest.fixture
def study(workplace, monkeypatch):
    "The file of a study that has begun, and a report that is quickly made."
    text(workplace / "nbs" / "5_report.ipynb")
    write_yaml(workplace / "outputs" / "mine" / "study.yaml", STUDY)
    monkeypatch.setattr(papermill, "execute_notebook", lambda notebook, path, **options: executed_notebook(path, False))
    return workplace / "outputs" / "mine" / "study.yaml"


@pytest.mark.parametrize("name", ["report.ipynb", "report.html"])
def test_a_report_of_somebody_stays(name, study, capsys):
    code, said = simseg(capsys, "report", study)
    assert code == 0 and "What holds" in study.with_name("report.html").read_text(), said
    code, said = simseg(capsys, "report", study)
    assert code == 0, said  # it may replace its own
    text(study.with_name(name), "{}")
    before = seen(study.parent)
    code, said = simseg(capsys, "report", study)
    assert code == 2 and f"{name} is no report that simseg wrote" in said and seen(study.parent) == before


def test_a_report_that_fails_leaves_the_one_before(study, capsys, monkeypatch):
    simseg(capsys, "report", study)
    before = seen(study.parent)
    monkeypatch.setattr(papermill, "execute_notebook", lambda notebook, path, **options: executed_notebook(path, True))
    code, said = simseg(capsys, "report", study)
    assert code == 2 and "no evaluated cell" in said and seen(study.parent) == before


def test_the_tutorial_on_own_data_leaves_a_study_file_as_it_is(workplace, capsys):
    notebook = json.loads((ROOT / "nbs" / "tutorials" / "own_data.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (writes,) = [source for source in sources if '"mine.yaml"' in source]
    file = text(workplace / "params" / "mine.yaml", "# by hand\n")
    begun = []
    given = {"photos": "p", "labelled": "l", "drawn": False, "repo_root": lambda: workplace,
             "new_study": lambda *asked: begun.append(asked)}
    exec(writes, given)
    assert not begun and "is there already" in capsys.readouterr().out
    file.unlink()
    exec(writes, given)
    assert begun == [("mine", "p", "l")]  # which writes over nothing: test_new


# What is wrong is one sentence

@pytest.mark.parametrize("arguments, message", [
    (["status", "things"], "no study file"), (["report", "things"], "no study file"), (["status", ""], "is empty"),
    (["predict", "", "--model", "m"], "is empty"), (["predict", "photos", "--out", ""], "is empty"),
    (["export", "", "--onnx", "new.onnx"], "is empty"), (["look", ""], "is empty"), (["record", ""], "is empty"),
])
def test_a_path_that_is_none_is_named(arguments, message, photos, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = seen(place)
    code, said = simseg(capsys, *arguments)
    assert code == 2 and message in said and seen(place) == before


@pytest.mark.parametrize("number, word", [(13, "Permission denied"), (28, "No space left on device")])
def test_what_the_system_refuses_is_a_sentence(number, word, quick, photos, place, monkeypatch, capsys):
    def refuse(*arguments): raise OSError(number, word, "found/cat.png")
    monkeypatch.setattr(predict, "write_atomic", refuse)
    code, said = simseg(capsys, "predict", photos, "--model", quick, "--out", place / "found")
    assert code == 2 and said.startswith(f"simseg: found/cat.png cannot be read or written: {word}. Check the path")


def test_a_tilde_is_the_home_folder(quick, photos, place, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(place / "home"))
    (place / "home").mkdir()
    monkeypatch.chdir(place)
    assert simseg(capsys, "predict", "photos", "--model", quick, "--out", "~/found")[0] == 0
    assert simseg(capsys, "export", quick, "--onnx=~/new.onnx")[0] == 0
    assert (place / "home" / "found" / "cat.png").exists() and (place / "home" / "new.onnx").exists()
    assert not (place / "~").exists()


# Any command, among folders that hold other things; every path lies below the temporary folder, and none is a device of
# this machine, which a fault would replace for everybody

CALLS = 400
FOLDERS = ["photos", "set/images", "set/masks", "set", "img", "gt", ".", "found", "masks", "new", "new/deep", "linked",
           "exports", "exports/", "outputs", "outputs/mine", "cache", "photos/found", "nowhere/../found", "model",
           "folder.onnx"]
FILES = ["photos/cat.png", "photos/dog.jpg", "img/cat.jpg", "set/images/a.jpg", "found/notes.png", "notes.txt", "pipe",
         "nowhere.jpg"]
ONNX = ["model.onnx", "there.onnx", "linked.onnx", "protected.onnx", "exports", "exports/", ".", "..", "",
        "found/cat.png", "photos/cat.png", "new/model.onnx", "model/model.onnx", "folder.onnx", "pipe.onnx",
        "notes.txt/m.onnx"]
IMAGES = ["photos/cat.png", "photos/dog.jpg", "photos/trip/cow.jpg", "img/cat.jpg", "img/dog.jpg", "gt/cat.png",
          "gt/dog.png", "set/images/a.jpg", "set/masks/a.png", "found/trip/old.jpg", "outputs/mine/photo.png"]
NAMES = ["x-64px-y", "folder-64px-holiday", "..", ".", "../photos", "nothing"]
STUDIES = ["outputs/mine/study.yaml", "params/mine.yaml", "photos", "nowhere.yaml"]


def furnish(world: Path):
    "Photos, drawn masks, texts, links and a pipe, and folders with the names of outputs."
    for name in IMAGES: picture(world / name, 255 if "gt" in name or "masks" in name else 90)
    for name in ("notes.txt", "found/notes.png", "found/dog.png", "found/cat.overlay.jpg", "found/cat.png/notes.txt",
                 "exports/notes.txt", "there.onnx", "protected.onnx", "folder.onnx/notes.txt", "outputs/mine/notes.md",
                 "outputs/mine/model/mine.txt", "outputs/reference/mine/notes.md", "cache/x-64px-y/meta.json",
                 "cache/folder-64px-holiday/images.npy", "masks/a.txt", "model/notes.txt"):
        text(world / name)
    (world / "protected.onnx").chmod(0o444)
    (world / "linked").symlink_to("photos")
    (world / "linked.onnx").symlink_to("notes.txt")
    (world / "found" / "cow.png").symlink_to("../photos/cat.png")
    for name in ("pipe", "pipe.onnx"): os.mkfifo(world / name)
    write_yaml(world / "params" / "mine.yaml", {**MINIATURE, "name": "mine"})
    write_yaml(world / "outputs" / "mine" / "study.yaml", STUDY)
    pretend(STUDY, ("scratch", 0.8, 0))  # one cell is done, which can be recorded


def drawn_call(rng: random.Random, model: Path) -> list[str]:
    "A command line; of paths, any that is there or could be."
    kinds = {"predict": 8, "export": 5, "report": 1, "record": 1, "status": 1, "cache": 2, "look": 1}
    (kind,) = rng.choices(list(kinds), kinds.values())
    if kind == "predict":
        maybe = [option for option in ("--overwrite", "--no-overlay") if rng.random() < 0.3]
        images = rng.choices(FILES + FOLDERS[:10], k=rng.choice([1, 1, 2]))
        out = ["--out", rng.choice(FOLDERS + FILES)] if rng.random() < 0.9 else []
        return ["predict", *images, "--model", str(model), *out, *maybe]
    if kind == "export": return ["export", str(model), "--onnx", rng.choice(ONNX), *rng.choice([[], ["--overwrite"]])]
    if kind == "cache": return ["cache", *rng.choice([[], ["--clear"], ["--clear", rng.choice(NAMES)]])]
    if kind == "look": return ["look", rng.choice(FOLDERS), *rng.choice([[], ["--write"]])]
    return [kind, rng.choice(STUDIES)]


def may_change(path: Path, arguments: list[str]) -> bool:
    "Whether a call may replace a file that was there: its own by name, where --overwrite says so, or its own report."
    if arguments[0] == "report": return path.name in ("report.ipynb", "report.html")
    if arguments[0] == "look": return path.parent.name == "look" and path.suffix == ".html"
    if arguments[0] == "record": return path.parent.parent.name == "reference" and path.name != "notes.md"
    if "--overwrite" not in arguments: return False
    if arguments[0] == "export": return path.samefile(arguments[3]) and path.suffix == ".onnx"
    return path.name.endswith((".png", ".overlay.jpg")) and not str(path).endswith((*IMAGES, "found/notes.png"))


def test_no_call_changes_what_was_there(quick, workplace, monkeypatch, capsys):
    monkeypatch.setenv("SIMSEG_CACHE", str(workplace / "cache"))
    monkeypatch.setattr(papermill, "execute_notebook", lambda notebook, path, **options: executed_notebook(path, False))
    text(workplace / "nbs" / "5_report.ipynb")
    furnish(workplace)
    rng = random.Random(0)
    codes = []
    for _ in range(CALLS):
        arguments = drawn_call(rng, quick)
        before = seen(workplace)
        code, said = simseg(capsys, *arguments)
        codes.append(code)
        after = seen(workplace)
        changed = [path for path in before if after.get(path) != before[path]]
        assert all(path in after and may_change(path, arguments) for path in changed), (arguments, changed, said)
        assert not list(workplace.rglob(".simseg-writing-*")), arguments
    assert codes.count(0) > 60 and codes.count(2) > 60  # neither all refused nor all done
