"Notebooks, library and README say the same, and the house is in order."
import ast
import dis
import inspect
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest
from conftest import BIN, ROOT

from simseg.study.batch import only_imports
from simseg.base.parameters import parameter_defaults

NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LIBRARY = [path for path in NOTEBOOKS if path.parent.name != "tutorials" and path.stem != "index"]
STAGES = ["1_augmentations", "2_simclr", "3_unet", "4_evaluation", "5_report"]
# From the ground up: a floor is a folder of rooms, or a stage.
FLOORS = ["base", "images", "augmentations", "learning", "simclr", "unet", "evaluation", "study", "evidence", "report",
          "tools", "__main__"]
MOST = {"lines": 450, "cells": 60, "parameters": 8, "names": 320, "lines of all": 7650}
BY_NAME = {"ids": lambda path: str(path.relative_to(ROOT / "nbs").with_suffix(""))}


def cells_of(path) -> list[dict]:
    "A notebook's cells, each with its source as one text."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def is_export(cell) -> bool: return cell["cell_type"] == "code" and cell["source"].startswith("#| export")


def has_parameters(cell) -> bool: return "parameters" in cell["metadata"].get("tags", [])


# Notebooks

@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_one_flat_commented_parameters_cell(name):
    "Exported, so that its defaults are the library's."
    (cell,) = [cell for cell in cells_of(ROOT / "nbs" / f"{name}.ipynb") if has_parameters(cell)]
    first, *lines = cell["source"].splitlines()
    assert first == "#| export"
    values = {}
    for line in lines:
        code, _, comment = line.partition("  # ")
        assert comment, line
        (statement,) = ast.parse(code).body
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert all(isinstance(value, (str, int, float, bool)) for value in values.values())
    assert parameter_defaults(name) == values


def test_other_notebooks_have_no_parameters():
    assert [path.stem for path in NOTEBOOKS if any(map(has_parameters, cells_of(path)))] == STAGES


@pytest.mark.parametrize("path", NOTEBOOKS, **BY_NAME)
def test_notebooks_are_executed_and_whole(path):
    cells = [cell for cell in cells_of(path) if cell["cell_type"] == "code"]
    shown = [cell["outputs"] for cell in cells if re.search(r"^print\(|;$", cell["source"], re.M)]
    assert all(shown), "not executed: make notebooks"
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    title = cells_of(path)[0]  # which a batch job keeps
    assert title["cell_type"] == "markdown" and title["source"].startswith("# ")


@pytest.mark.parametrize("path", LIBRARY, **BY_NAME)
def test_every_export_stands_behind_a_sentence(path):
    "Imports alone need no sentence."
    cells = cells_of(path)
    for i, cell in enumerate(cells):
        if not is_export(cell) or only_imports(cell["source"]): continue
        begin = cell["source"].splitlines()[1]
        assert cells[i - 1]["cell_type"] == "markdown", f"no sentence before the export that begins with {begin!r}"


def written_by_hand() -> dict:
    "Place → source, of everything that has to fit a screen."
    files = [*(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), ROOT / "Snakefile", ROOT / "setup.py"]
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    for path in LIBRARY:
        exports = [cell["source"] for cell in cells_of(path) if is_export(cell)]
        sources[module_of(path)] = "\n".join(exports)
    return sources


def test_no_line_is_longer_than_a_screen():
    long = [f"{place}: {line}" for place, source in written_by_hand().items()
            for line in source.splitlines() if len(line) > 120]
    assert not long, "\n".join(long)


# The house

def module_of(path) -> str:  # below simseg, such as images.masks
    (name,) = re.findall(r"^#\| default_exp (\S+)$", "\n".join(cell["source"] for cell in cells_of(path)), re.M)
    return name


def source_of(module: str) -> str:
    return (ROOT / "simseg" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def imported_rooms(module: str) -> set[str]:
    "Modules of simseg that a module imports, wherever in it."
    found = set()
    for node in ast.walk(ast.parse(source_of(module))):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: found.add(".".join([*module.split(".")[:-node.level], node.module]))
        elif node.module.startswith("simseg."): found.add(node.module.removeprefix("simseg."))
    return found


def test_imports_run_down():
    "From a floor to one below it, or within it, without a circle; study.batch, which papermill loads, imports none."
    rooms = {module_of(path): imported_rooms(module_of(path)) for path in LIBRARY}
    for module, imported in rooms.items():
        floor = FLOORS.index(module.split(".")[0])
        above = [other for other in imported if FLOORS.index(other.split(".")[0]) > floor]
        assert not above, f"{module} imports from {above}"
    TopologicalSorter(rooms).prepare()  # it raises CycleError
    assert not rooms["study.batch"]


@pytest.mark.parametrize("path", LIBRARY, **BY_NAME)
def test_a_room_fits_in_the_head(path):
    lines = source_of(module_of(path)).splitlines()
    assert len(lines) <= MOST["lines"]
    assert len(cells_of(path)) <= MOST["cells"]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.FunctionDef): continue
        names = [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs] if argument.arg != "self"]
        assert len(names) <= MOST["parameters"], f"{node.name} takes {', '.join(names)}"


def test_so_does_the_house():
    sources = [source_of(module_of(path)) for path in LIBRARY]
    assert sum(len(source.splitlines()) for source in sources) <= MOST["lines of all"]
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for source in sources for node in ast.parse(source).body if isinstance(node, kinds)]
    assert len([name for name in names if not name.startswith("_")]) <= MOST["names"]


def added_rows() -> list[list[str]]:
    "Rows of CONTRIBUTING's table: what to add, the notebook, what to change there."
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("| to add | open | change |") + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"): break
        rows.append([part.strip() for part in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("row", added_rows(), ids=lambda row: row[0])
def test_what_the_guide_says_to_change_is_there(row):
    "A notebook, and in it each name."
    _, notebook, change = row
    path = ROOT / "nbs" / f"{notebook.strip('`')}.ipynb"
    assert path in LIBRARY
    module = import_module(f"simseg.{module_of(path)}")
    names = re.findall(r"`(\w+)`", change)
    assert names
    for name in names: assert hasattr(module, name), f"{notebook} has no {name}"


def codes_within(code: CodeType):
    "The code of every function and class in a code, and in those."
    for constant in code.co_consts:
        if not isinstance(constant, CodeType): continue
        yield constant
        yield from codes_within(constant)


@pytest.mark.parametrize("name", STAGES)
def test_no_function_of_a_stage_reads_a_parameter_as_a_global(name):
    "A default of the parameters cell, which lies in the same module, would silently stand in for what a run was asked."
    module = import_module(f"simseg.{name[2:]}")
    whole = compile(inspect.getsource(module), module.__file__, "exec")
    defaults = parameter_defaults(name)
    for code in codes_within(whole):
        read = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        assert not read & defaults.keys(), f"{code.co_qualname} reads {read & defaults.keys()}"


# Defaults live in the library

READ_DEFAULTS = """
import simseg
from simseg.base.parameters import parameter_defaults
from simseg.study.files import check_study
from simseg.study.grid import Run

study = check_study({"label_ratios": [0.5], "seeds": [0], "encoders": {"animals": {"dataset": "synthetic"}}})
print(simseg.__file__)
print(parameter_defaults("simclr")["epochs"], Run(study, "simclr", "animals").params["epochs"])
"""


def read_defaults(library, folder) -> list[str]:  # where simseg lies, and the epochs of 2_simclr
    "What another simseg says, asked from a folder."
    command = [sys.executable, "-c", READ_DEFAULTS]
    environment = {**os.environ, "PYTHONPATH": str(library)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.splitlines()


def test_a_notebook_that_somebody_changed_and_saved_changes_no_default(checkout):
    epochs = parameter_defaults("simclr")["epochs"]
    path = checkout / "nbs" / "2_simclr.ipynb"
    text, changes = re.subn(rf"epochs = {epochs}  # passes", "epochs = 999  # passes", path.read_text())
    assert changes == 1
    path.write_text(text)
    place, said = read_defaults(checkout, checkout)
    assert Path(place).parent == checkout / "simseg"
    assert said == f"{epochs} {epochs}"


def test_an_installed_simseg_needs_no_checkout(checkout, tmp_path):
    library = tmp_path / "library"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", library]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, checkout], check=True)
    place, said = read_defaults(library, elsewhere)
    assert Path(place).parent == library / "simseg"
    epochs = parameter_defaults("simclr")["epochs"]
    assert said == f"{epochs} {epochs}"


# nbdev

def test_nbdev_clean_keeps_the_parameters_tag_and_changes_nothing(checkout):
    "Without allowed_cell_metadata_keys it would remove the tag, and papermill's values would lose to the defaults."
    subprocess.run([BIN / "nbdev_clean"], cwd=checkout, check=True)
    for path in NOTEBOOKS:
        cleaned = checkout / path.relative_to(ROOT)
        assert json.loads(cleaned.read_text()) == json.loads(path.read_text()), f"{path.name}: run nbdev_clean"
    for name in STAGES: assert any(map(has_parameters, cells_of(checkout / "nbs" / f"{name}.ipynb")))


def test_nbdev_export_leaves_no_diff(checkout):
    subprocess.run([BIN / "nbdev_export"], cwd=checkout, check=True)
    def library(top): return {str(path.relative_to(top)): path.read_text() for path in (top / "simseg").rglob("*.py")}

    exported = library(checkout)
    ours = library(ROOT)
    assert exported.keys() == ours.keys()
    for name, text in exported.items(): assert text == ours[name], f"{name}: run nbdev_export"
    assert not (checkout / "pyproject.toml").exists()


def test_readme_is_generated(tmp_path):
    command = [BIN / "jupyter", "nbconvert", "--to", "markdown", "--no-input", "--output-dir", tmp_path]
    command += ["--output", "README", "--NbConvertApp.output_files_dir=nbs/readme", "--template=readme"]
    command += [f"--TemplateExporter.extra_template_basedirs={ROOT / 'nbs' / 'docs'}", ROOT / "nbs" / "index.ipynb"]
    subprocess.run(command, check=True, capture_output=True)
    text = (ROOT / "README.md").read_text()
    assert text == (tmp_path / "README.md").read_text(), "run make readme"
    assert len(text.splitlines()) < 150
    assert "![png]" not in text  # a picture's words are its cell's: fig-alt
