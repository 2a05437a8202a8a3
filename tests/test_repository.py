"Notebooks, library and README say the same."
import ast
import json
import subprocess

import pytest
from conftest import BIN, ROOT

from simseg.core import parameter_defaults

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
STAGES = [p for p in NOTEBOOKS if p.stem in ("01_augmentations", "02_simclr", "03_unet", "04_evaluation", "05_study")]


@pytest.mark.parametrize("path", STAGES, ids=lambda p: p.stem)
def test_a_stage_has_one_flat_commented_parameters_cell(path):
    (cell,) = [c for c in json.loads(path.read_text())["cells"] if "parameters" in c["metadata"].get("tags", [])]
    for line in "".join(cell["source"]).splitlines():
        code, _, comment = line.partition("  # ")
        assert isinstance(ast.literal_eval(ast.parse(code).body[0].value), (str, int, float, bool)) and comment, line
    assert parameter_defaults(path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_executed_and_whole(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in cells), "not executed: make notebooks"
    assert not any(o["output_type"] == "error" for c in cells for o in c["outputs"])


def test_nbdev_clean_keeps_the_parameters_tag_and_changes_nothing(checkout):
    "Without allowed_cell_metadata_keys it would remove the tag, and papermill's values would lose to the defaults."
    subprocess.run([BIN / "nbdev_clean"], cwd=checkout, check=True)
    for path in NOTEBOOKS: assert json.loads((checkout / "nbs" / path.name).read_text()) == json.loads(path.read_text()), f"{path.name}: run nbdev_clean"
    for path in STAGES: assert (checkout / "nbs" / path.name).read_text().count('"parameters"') >= 1


def test_nbdev_export_leaves_no_diff(checkout):
    subprocess.run([BIN / "nbdev_export"], cwd=checkout, check=True)
    assert {p.name for p in (checkout / "simseg").glob("*.py")} == {p.name for p in (ROOT / "simseg").glob("*.py")}
    for path in (ROOT / "simseg").glob("*.py"): assert (checkout / "simseg" / path.name).read_text() == path.read_text(), f"{path.name}: run nbdev_export"
    assert not (checkout / "pyproject.toml").exists()


def test_readme_is_generated(tmp_path):
    subprocess.run([BIN / "jupyter", "nbconvert", "--to", "markdown", "--no-input", "--output-dir", tmp_path, "--output", "README",
                    "--NbConvertApp.output_files_dir=nbs/readme", ROOT / "nbs" / "index.ipynb"], check=True, capture_output=True)
    text = (ROOT / "README.md").read_text()
    assert text == (tmp_path / "README.md").read_text(), "run make readme"
    assert len(text.splitlines()) < 150
