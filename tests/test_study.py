"Study files, and a whole small study through Snakemake."
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest
import yaml
from conftest import BIN, ROOT

from simseg.core import check_known, check_types, parameter_defaults
from simseg.study import UNTRAINED, check_study, simclr_params, split_arm, study_cells, unet_params


def snakemake(*arguments):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([BIN / "snakemake", "--cores", "2", "--nolock", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", ["quickstart", "pets-small", "pets-pretraining-small", "pets-recipes", "pets", "pets-best", "pets-pretraining"])
def test_study_files_are_whole(name):
    study = check_study(yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text()))
    assert study["name"] == name and len(study_cells(study)) >= 9
    for arm, ratio, seed in study_cells(study):
        check_types(unet_params(study, arm, ratio, seed), parameter_defaults("03_unet"))
        encoder, _ = split_arm(arm)
        if encoder not in UNTRAINED: check_types(simclr_params(study, encoder, seed), parameter_defaults("02_simclr"))


@pytest.mark.parametrize("name, notebook", [("simclr_cifar10", "02_simclr"), ("simclr_cats_vs_dogs", "02_simclr"), ("unet_pets", "03_unet"), ("unet_pets_small", "03_unet")])
def test_single_cell_files_fit_their_notebook(name, notebook):
    values, defaults = yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text()), parameter_defaults(notebook)
    check_known(f"parameter of {notebook}", values, defaults)
    check_types(values, defaults)


def test_a_mistyped_study_stops_before_anything_runs(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("name: mistyped\nencoders: {scratch: }\nlabel_ratios: [0.2]\nseeds: [0]\nunet: {epoch: 3}\n")
    run = snakemake("--configfile", file)
    assert run.returncode != 0 and "did you mean `epochs`?" in run.stdout + run.stderr
    assert not (ROOT / "outputs" / "mistyped").exists()


def test_a_small_study_from_end_to_end(tmp_path):
    "A pretrained encoder beside scratch, under two recipes; a report that opens without a network; nothing to do the second time; forced, the same figures."
    name = f"test-{os.getpid()}"
    file, out = tmp_path / "study.yaml", ROOT / "outputs" / name
    file.write_text(f"""
name: {name}
image_size: 32
encoder_name: resnet18
label_ratios: [0.5]
seeds: [0]
encoders: {{scratch: , animals: {{dataset: synthetic}}}}
recipes: {{frozen: {{freeze_encoder: true, encoders: [animals]}}}}
simclr: {{max_images: 64, batch_size: 16, epochs: 1}}
unet: {{dataset: synthetic, max_images: 64, epochs: 1}}
""")
    try:
        run = snakemake("--configfile", file)
        assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
        results = pd.read_csv(out / "results.csv")
        assert results[["encoder", "recipe"]].values.tolist() == [["scratch", "base"], ["animals", "base"], ["animals", "frozen"]]
        assert results["iou"].between(0, 1).all() and (results["n_images"] == 13).all()
        assert pd.read_csv(out / "comparisons.csv")[["first", "second", "recipe"]].values.tolist() == [["animals", "scratch", "base"]]
        html = (out / "report.html").read_text()
        assert "Does SimCLR pretraining pay off?" in html and html.count("data:image/png") >= 4
        assert not re.search(r"(src|href|import|from)[ =(]*[\"']https?://", html)
        again = snakemake("--configfile", file, "--dry-run")
        assert "Nothing to be done" in again.stdout + again.stderr
        metrics = {path: path.read_bytes() for path in out.glob("**/metrics.json")}
        forced = snakemake("--configfile", file, "--forceall")
        assert forced.returncode == 0 and len(metrics) == 7
        assert all(path.read_bytes() == before for path, before in metrics.items())
    finally: shutil.rmtree(out, ignore_errors=True)
