"Study files, and a whole small study through Snakemake."
import os
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import yaml
from conftest import BIN, ROOT, pretrainings, simclr_params, study_cells, unet_params, with_our_commands
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from simseg.base import run as base_run
from simseg.study.batch import batch_cells
from simseg.base.files import read_csv, read_json
from simseg.base.parameters import check_known, check_types, parameter_defaults
from simseg.evidence.verdict import say
from simseg.study.files import check_study
from simseg.images.synthetic import make_synthetic
from simseg.unet import run_unet

PARAMS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "params").glob("*.yaml"))}
STUDIES = [name for name, values in PARAMS.items() if "encoders" in values]
SINGLE_RUNS = [name for name in PARAMS if name not in STUDIES]  # each named after its stage: simclr_cifar10


def snakemake(*arguments):
    "The command of the README, and what it printed."
    command = [BIN / "snakemake", "--cores", "2", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_our_commands())
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("name", STUDIES)
def test_study_files_are_whole(name):
    study = check_study(PARAMS[name])
    assert study["name"] == name
    assert len(study_cells(study)) >= 9
    for cell in study_cells(study): check_types(unet_params(study, *cell), parameter_defaults("unet"))
    for run in pretrainings(study): check_types(simclr_params(study, *run), parameter_defaults("simclr"))


@pytest.mark.parametrize("name", SINGLE_RUNS)
def test_files_of_a_single_run_fit_their_notebook(name):
    stage, _, _ = name.partition("_")
    defaults = parameter_defaults(stage)
    check_known(f"parameter of {stage}", PARAMS[name], defaults)
    check_types(PARAMS[name], defaults)


def test_a_mistyped_study_stops_before_anything_runs(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("name: mistyped\nencoders: {scratch: }\nlabel_ratios: [0.2]\nseeds: [0]\nunet: {epoch: 3}\n")
    code, said = snakemake("--configfile", file)
    assert code != 0
    assert "did you mean `epochs`?" in said
    assert not (ROOT / "outputs" / "mistyped").exists()


# two encoders and a recipe, on images of one's own
SMALL_STUDY = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.8]
seeds: [0]
encoders: {{scratch: , animals: {{dataset: synthetic}}}}
recipes: {{frozen: {{freeze_encoder: true, encoders: [animals]}}}}
simclr: {{max_images: 64, batch_size: 16, epochs: 1}}
unet: {{dataset: {images}, batch_size: 8, epochs: 1}}
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    "A folder of images and masks; a test leaves it as it was."
    folder = tmp_path_factory.mktemp("own")
    for part in ("images", "masks"): (folder / part).mkdir()
    drawn = make_synthetic(20, 32)
    for i in range(20):
        Image.fromarray(drawn.images[i].transpose(1, 2, 0)).save(folder / "images" / f"{i}.png")
        Image.fromarray((drawn.masks[i] != 2).astype(np.uint8)).save(folder / "masks" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def finished_study(images, tmp_path_factory):
    "The file of a study that has run, the folder of its results, and what was printed; a test leaves all as it was."
    file = tmp_path_factory.mktemp("finished") / "study.yaml"
    out = ROOT / "outputs" / f"test-finished-{os.getpid()}"
    file.write_text(SMALL_STUDY.format(name=out.name, images=images))
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    yield file, out, said
    shutil.rmtree(out, ignore_errors=True)


def assert_tables_are_whole(out):
    "A pretrained encoder beside scratch, under two recipes."
    results = read_csv(out / "results.csv")
    arms = [["scratch", "base"], ["animals", "base"], ["animals", "frozen"]]
    assert results[["encoder", "recipe"]].values.tolist() == arms
    assert results["iou"].between(0, 1).all()
    assert (results["n_images"] == 4).all()
    comparisons = read_csv(out / "comparisons.csv")
    assert comparisons[["question", "first", "second", "recipe"]].values.tolist() == [
        ["start", "simclr", "scratch", "base"], ["way", "animals", "scratch", "base"]]
    assert read_json(out / "verdict.json")["study"] == out.name


def assert_report_stands_alone(out):
    "It opens without a network, and shows its figures."
    html = (out / "report.html").read_text()
    assert escape(say(read_json(out / "verdict.json"))[0].removeprefix("! ")) in html
    assert html.count("data:image/png") >= 4
    assert not re.search(r"(src|href|import|from)[ =(]*[\"']https?://", html)


def assert_runs_are_whole(out, said):
    "Each run has a line on the screen, and in its folder what it printed and its notebook, without demonstrations."
    folders = [path.parent for path in out.glob("**/results.sha256")]
    assert len(folders) == 7
    for folder in folders:
        for name in ("log.txt", "metrics.json", "params.yaml"): assert (folder / name).is_file()
        cells = nbformat.read(folder / "notebook.ipynb", 4).cells
        assert batch_cells(cells) == cells
    assert "epoch 1/1" in (out / "simclr" / "animals" / "seed0" / "log.txt").read_text()
    assert said.count("Study ") == 1 and "1 pretraining, 3 fine-tunings, 3 tests, 1 report." in said
    for line in ("pretraining  animals · pretraining 1", r"fine-tuning  animals \(frozen\) · 14 masks · block 1",
                 "test         scratch · 14 masks · block 1"):
        assert re.search(rf"^ *\d/8  {line} ", said, re.MULTILINE), said


def test_a_small_study_from_end_to_end(finished_study):
    "Run again, it gives the same bytes: test_resume."
    _, out, said = finished_study
    assert_tables_are_whole(out)
    assert_report_stands_alone(out)
    assert_runs_are_whole(out, said)


# What changed runs again

RULES = {"simclr", "unet", "evaluation", "report"}  # pretraining leaves out test images, so that it depends on them too


def planned(file, *more) -> dict:  # rule → why, of each of its runs
    "What a dry run would run, and why."
    _, said = snakemake("--configfile", file, "--dry-run", *more)
    assert "rule " in said or "Nothing to be done" in said, said
    why = {}
    for rule, reason in re.findall(r"^rule (\w+):\n(?:.*\n)*?    reason: (.*)$", said, re.MULTILINE):
        why.setdefault(rule, []).append(reason)
    return why


def test_a_study_notices_what_changed_and_nothing_else(finished_study, images):
    "Once run, there is nothing left to do."
    file, _, _ = finished_study
    assert planned(file) == {}
    why = planned(file, "--config", "precision=fp32")
    assert set(why) == RULES and any("fp32" in reason for reason in why["unet"])
    added = [shutil.copy(images / part / "3.png", images / part / "again.png") for part in ("images", "masks")]
    why = planned(file)
    for path in added: Path(path).unlink()
    assert set(why) == RULES and any("images" in reason for reason in why["unet"])


OWN_STUDY = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.8]
seeds: [0]
encoders: {encoders}
unet: {{dataset: {images}, epochs: 0}}
"""


@pytest.mark.slow  # two studies, of which each run is a process that imports torch
def test_what_failed_is_missing_with_its_sentence(images, make_study, tmp_path):
    "The others go on, the report is made, and the study is done when what was wrong is mended."
    photos = shutil.copytree(images / "images", tmp_path / "photos")
    kept = [(photos / f"{i}.png").rename(tmp_path / f"{i}.png") for i in range(17)]  # too few are left for a batch
    encoders = f"{{{{scratch: , bad: {{{{dataset: {photos}, batch_size: 4, epochs: 1}}}}}}}}"
    file, out = make_study("failed", OWN_STUDY.replace("{encoders}", encoders).replace("{images}", str(images)))
    code, said = snakemake("--configfile", file)
    assert code == 1
    assert "1 of 2 cells are evaluated\nfailed: simclr bad seed 0: batch_size=4, but there are only" in said
    assert len(read_csv(out / "results.csv")) == 1
    assert "failed: simclr bad seed 0" in (out / "report.html").read_text(encoding="utf-8")
    for path in kept: path.rename(photos / path.name)
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    assert len(read_csv(out / "results.csv")) == 2


def test_a_mask_of_a_wrong_size_ends_the_start(images, make_study, tmp_path):
    "With its sentence, once, before the first job."
    own = shutil.copytree(images, tmp_path / "own")
    Image.new("L", (32, 16)).save(own / "masks" / "3.png")
    text = OWN_STUDY.replace("{encoders}", "{{scratch: }}").replace("{images}", str(own))
    file, out = make_study("wrong-size", text)
    code, said = snakemake("--configfile", file)
    assert code != 0 and said.count(f"The mask {own}/masks/3.png is 32×16 pixels, but its image is 32×32") == 1
    assert not (out / "unet").exists()


def test_a_study_of_a_taken_name_is_refused(finished_study, tmp_path):
    "A copy of the file with the old name and other epochs would replace the runs that are finished."
    file, out, _ = finished_study
    copy = tmp_path / "copy.yaml"
    copy.write_text(file.read_text().replace("batch_size: 8, epochs: 1", "batch_size: 8, epochs: 2"))
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    code, said = snakemake("--configfile", copy)
    assert code != 0 and f"holds the study of {file} (unet.epochs=1, here unet.epochs=2)" in said
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


# How it runs

ODD_STUDY = """
name: test-odd
image_size: 32
label_ratios: [0.8, 5.0e-5]
seeds: [0]
encoders: {scratch: , animals: {dataset: synthetic}}
unet: {dataset: synthetic}
device: cpu
threads: 2
resources: {unet: {gpu: 1, runtime: 77, mem_mb: 4000}}
"""


@pytest.mark.parametrize("profile", ["slurm", *[pytest.param(name, marks=pytest.mark.slow)
                                               for name in ("default", "local", "gpus")]])
def test_each_profile_runs_a_study(profile, tmp_path):
    "Planned, with what each run takes, as the study says or by its size; small ratios too."
    file = tmp_path / "study.yaml"
    file.write_text(ODD_STUDY)
    cores = ["--cores", "2"] if profile in ("default", "slurm") else []  # a dry run of slurm takes them, too
    command = [BIN / "snakemake", "--workflow-profile", f"profiles/{profile}", *cores, "--configfile", file, "-n"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_our_commands())
    assert run.returncode == 0, run.stderr[-2000:]
    assert "outputs/test-odd/unet/scratch/ratio5e-05/seed0" in run.stdout
    rule_of = dict(re.findall(r"^rule (\w+):\n((?:    .*\n)*)", run.stdout, re.MULTILINE))
    for wanted in ("runtime=77", "gpu=1", "mem_mb=4000"): assert wanted in rule_of["unet"]
    assert "gpu=0" in rule_of["simclr"] and "threads: 2" in rule_of["simclr"]


def test_a_stage_may_have_an_image_size_of_its_own():
    "Pretraining another than fine-tuning, and an encoder its own; a recipe not, since all have the same test images."
    study = {"name": "sizes", "image_size": 96, "label_ratios": [0.2], "seeds": [0], "unet": {"image_size": 64},
             "encoders": {"scratch": None, "small": {"dataset": "synthetic"},
                          "large": {"dataset": "synthetic", "image_size": 48}}}
    checked = check_study({**study, "simclr": {"image_size": 32}})
    assert [simclr_params(checked, encoder, 0)["image_size"] for encoder in ("small", "large")] == [32, 48]
    assert unet_params(checked, "scratch", 0.2, 0)["image_size"] == 64
    assert simclr_params(check_study(study), "small", 0)["image_size"] == 96
    for section in ({"recipes": {"large": {"image_size": 128}}}, {"evaluation": {"image_size": 128}}):
        with pytest.raises(ValueError, match="`image_size` is no parameter of"): check_study({**study, **section})


def test_a_run_of_a_hundred_thousandth_of_the_labels_says_what_is_wrong():
    "The smallest ratios are legal; whether they leave images to train on, the images say."
    study = check_study({**yaml.safe_load(ODD_STUDY)})
    params = unet_params(study, "scratch", 5e-5, 0)
    with pytest.raises(ValueError, match="label_ratio=5e-05 of 512 images leaves 0 to train"): run_unet(params)
    shutil.rmtree(ROOT / "outputs" / "test-odd")


def test_each_run_sees_a_gpu_of_its_own(tmp_path):
    "Two batch jobs at a time, of which the second begins when the first has one; a third would wait."
    cells = [new_code_cell("import os, pathlib, time"),
             new_code_cell("folder = '.'", metadata={"tags": ["parameters"]}),
             new_code_cell("pathlib.Path(folder, str(os.getpid())).write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
                           "while len(list(pathlib.Path(folder).iterdir())) < 2: time.sleep(0.1)")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "stage.ipynb")
    seen = tmp_path / "seen"
    seen.mkdir()
    environment = with_our_commands(CUDA_VISIBLE_DEVICES=f"{os.getpid()}0,{os.getpid()}1", SIMSEG_GPUS="1")
    command = [BIN / "papermill", "--engine", "simseg", tmp_path / "stage.ipynb", "-p", "folder", seen]
    jobs = [subprocess.Popen([*command, tmp_path / f"{i}.ipynb"], env=environment) for i in (1, 2)]
    assert [job.wait() for job in jobs] == [0, 0]
    assert sorted(file.read_text() for file in seen.iterdir()) == [f"{os.getpid()}0", f"{os.getpid()}1"]


def test_code_is_noticed_and_what_is_said_of_it_is_not(monkeypatch, tmp_path):
    "In a copy of the library, of which a comment, a docstring, and then a figure is changed."
    copy = shutil.copytree(ROOT / "simseg", tmp_path / "simseg", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(base_run, "find_spec", lambda name: SimpleNamespace(origin=str(copy / "__init__.py")))

    def fingerprints(): return [base_run.code_fingerprint.__wrapped__(stage) for stage in ("simclr", "unet")]

    simclr, unet = fingerprints()
    module = copy / "simclr.py"
    code = module.read_text(encoding="utf-8")
    said = code.replace('\n    "Return', '\n    # as said\n    "Really return')
    module.write_text(said, encoding="utf-8")
    assert said != code and fingerprints() == [simclr, unet]
    module.write_text(code.replace("BANK = 5000", "BANK = 4000"), encoding="utf-8")
    changed, same = fingerprints()
    assert changed != simclr and same == unet


# The tutorial on folders of one's own

@pytest.mark.slow  # a pretraining and U-Nets of a tutorial, which `make test` executes as it stands
def test_own_data_runs_on_any_two_folders(checkout, tmp_path):
    "Two paths are set, all cells run, nothing drawn takes part, and a study file is left that is whole."
    shutil.copytree(ROOT / "params", checkout / "params")
    drawn = make_synthetic(60, 48, seed=3)
    for part in ("photos", "labelled/images", "labelled/masks"): (tmp_path / part).mkdir(parents=True)
    for i in range(40): Image.fromarray(drawn.images[i].transpose(1, 2, 0)).save(tmp_path / "photos" / f"{i}.jpg")
    for i in range(40, 60):
        Image.fromarray(drawn.images[i].transpose(1, 2, 0)).save(tmp_path / "labelled" / "images" / f"{i}.jpg")
        Image.fromarray((drawn.masks[i] != 2).astype(np.uint8)).save(tmp_path / "labelled" / "masks" / f"{i}.png")
    file = checkout / "nbs" / "tutorials" / "own_data.ipynb"
    notebook = nbformat.read(file, 4)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("photos = ")]
    cell.source = f"photos = {str(tmp_path / 'photos')!r}\nlabelled = {str(tmp_path / 'labelled')!r}"
    nbformat.write(notebook, file)
    command = [BIN / "jupyter", "nbconvert", "--to", "notebook", "--inplace", "--execute", file]
    run = subprocess.run(command, capture_output=True, text=True, env=with_our_commands(OMP_NUM_THREADS="1"))
    assert run.returncode == 0, run.stderr[-3000:]
    text = file.read_text(encoding="utf-8")
    assert "20 images with masks, 40 photos without" in text and "a toy" not in text
    assert (checkout / "outputs" / "mine-first-look" / "report.html").is_file()
    assert not (checkout / "outputs" / "tutorial").exists()
    study = check_study(yaml.safe_load((checkout / "params" / "mine.yaml").read_text()))
    assert study["name"] == "mine" and len(study_cells(study)) == 10  # five blocks of two ways to start
