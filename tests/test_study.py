"Study files, and a whole small study through Snakemake."
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import BIN, ROOT, with_our_commands
from PIL import Image

from simseg.batch import batch_cells
from simseg.core import check_known, check_types, parameter_defaults
from simseg.study import check_study, pretrainings, simclr_params, study_cells, unet_params
from simseg.synthetic import draw_synthetic

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


SMALL_STUDY = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.5]
seeds: [0]
encoders: {{scratch: , animals: {{dataset: synthetic}}}}
recipes: {{frozen: {{freeze_encoder: true, encoders: [animals]}}}}
simclr: {{max_images: 64, batch_size: 16, epochs: 1}}
unet: {{dataset: synthetic, max_images: 64, epochs: 1}}
"""


@pytest.fixture
def small_study(tmp_path):
    "A study file, and the folder of its results, which is removed at the end."
    name = f"test-{os.getpid()}"
    file = tmp_path / "study.yaml"
    file.write_text(SMALL_STUDY.format(name=name))
    out = ROOT / "outputs" / name
    yield file, out
    shutil.rmtree(out, ignore_errors=True)


def assert_tables_are_whole(out):
    "A pretrained encoder beside scratch, under two recipes."
    results = pd.read_csv(out / "results.csv")
    arms = [["scratch", "base"], ["animals", "base"], ["animals", "frozen"]]
    assert results[["encoder", "recipe"]].values.tolist() == arms
    assert results["iou"].between(0, 1).all()
    assert (results["n_images"] == 13).all()
    comparisons = pd.read_csv(out / "comparisons.csv")
    assert comparisons[["first", "second", "recipe"]].values.tolist() == [["animals", "scratch", "base"]]


def assert_report_stands_alone(out):
    "It opens without a network, and shows its figures."
    html = (out / "report.html").read_text()
    assert "Does SimCLR pretraining pay off?" in html
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
    for line in (r"simclr +animals seed 0", r"unet +animals-frozen 50% seed 0", r"evaluation +scratch 50% seed 0"):
        assert re.search(rf"^ *\d/8  {line} ", said, re.MULTILINE), line


def test_a_small_study_from_end_to_end(small_study):
    "Run, there is nothing left to do; removed and run again, every figure is the same to the last byte."
    file, out = small_study
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    assert_tables_are_whole(out)
    assert_report_stands_alone(out)
    assert_runs_are_whole(out, said)
    _, said = snakemake("--configfile", file, "--dry-run")
    assert "Nothing to be done" in said
    before = {path: path.read_bytes() for path in out.glob("**/metrics.json")}
    shutil.rmtree(out)
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    assert len(before) == 7
    for path, content in before.items(): assert path.read_bytes() == content, path


# What changed runs again

OWN_STUDY = """
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.8]
seeds: [0]
encoders: {{scratch: }}
unet: {{dataset: {images}, epochs: 0}}
"""


@pytest.fixture
def finished_study(small_study, tmp_path):
    "A study of one's own images that has run, and their folder."
    file, out = small_study
    images = tmp_path / "own"
    for part in ("images", "masks"): (images / part).mkdir(parents=True)
    drawn = draw_synthetic(12, 32)
    for i in range(12):
        Image.fromarray(drawn.images[i].transpose(1, 2, 0)).save(images / "images" / f"{i}.png")
        Image.fromarray((drawn.masks[i] != 2).astype(np.uint8)).save(images / "masks" / f"{i}.png")
    file.write_text(OWN_STUDY.format(name=out.name, images=images))
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    return file, images


def planned(file, *more) -> dict:  # rule → why
    "What a dry run would run, and why."
    _, said = snakemake("--configfile", file, "--dry-run", *more)
    return dict(re.findall(r"^rule (\w+):\n(?:.*\n)*?    reason: (.*)$", said, re.MULTILINE))


def test_a_study_notices_what_changed_and_nothing_else(finished_study):
    file, images = finished_study
    assert planned(file) == {}
    why = planned(file, "--config", "precision=fp32")
    assert set(why) == {"unet", "evaluation", "report"} and "fp32" in why["unet"]
    for part in ("images", "masks"): shutil.copy(images / part / "3.png", images / part / "again.png")
    why = planned(file)
    assert set(why) == {"unet", "evaluation", "report"} and "images" in why["unet"]


def test_what_failed_leaves_a_hole_with_its_sentence(finished_study):
    "The others go on, the report is made, and the study is done when what was wrong is mended."
    file, images = finished_study
    out = ROOT / "outputs" / yaml.safe_load(file.read_text())["name"]
    photos = shutil.copytree(images / "images", images.with_name("photos"))
    (photos / "3.png").write_bytes(b"")
    encoders = f"encoders: {{scratch: , bad: {{dataset: {photos}, batch_size: 2, epochs: 0, max_unreadable: 0.0}}}}"
    file.write_text(file.read_text().replace("encoders: {scratch: }", encoders))
    code, said = snakemake("--configfile", file)
    assert code == 1
    assert "1 of 2 cells are evaluated\nfailed: simclr bad seed 0: 1 of 12 images of" in said
    assert len(pd.read_csv(out / "results.csv")) == 1
    assert "failed: simclr bad seed 0" in (out / "report.html").read_text(encoding="utf-8")
    shutil.copy(images / "images" / "3.png", photos)
    code, said = snakemake("--configfile", file)
    assert code == 0, said[-3000:]
    assert len(pd.read_csv(out / "results.csv")) == 2


def test_code_is_noticed_and_what_is_said_of_it_is_not(checkout, tmp_path):
    "In a copy of the library, of which a comment, a docstring, and then a figure is changed."
    asked = "from simseg.run import code_fingerprint; print(code_fingerprint('simclr'), code_fingerprint('unet'))"

    def fingerprints():
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, "-c", asked]
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True).stdout.split()

    simclr, unet = fingerprints()
    module = checkout / "simseg" / "simclr.py"
    code = module.read_text(encoding="utf-8")
    said = code.replace('"What classifiers make', '# as said\n    "What some classifiers make')
    module.write_text(said, encoding="utf-8")
    assert said != code and fingerprints() == [simclr, unet]
    module.write_text(code.replace("BANK = 5000", "BANK = 4000"), encoding="utf-8")
    changed, same = fingerprints()
    assert changed != simclr and same == unet
