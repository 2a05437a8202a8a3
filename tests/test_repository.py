"Notebooks, library and README say the same, and the house is in order."
import ast
import dis
import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest
from conftest import BIN, ROOT

from simseg.batch import only_imports
from simseg.core import parameter_defaults

NOTEBOOKS = sorted([*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs" / "tutorials").glob("*.ipynb")])
LIBRARY = [path for path in NOTEBOOKS if path.stem[0].isdigit()]
STAGES = ["06_augmentations", "08_simclr", "09_unet", "10_evaluation", "11_predict", "14_report"]
BY_NAME = {"ids": lambda path: path.stem}


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
    assert any(cell["outputs"] for cell in cells), "not executed: make notebooks"
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])


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
        sources[path.name] = "\n".join(exports)
    return sources


def test_no_line_is_longer_than_a_screen():
    long = [f"{place}: {line}" for place, source in written_by_hand().items()
            for line in source.splitlines() if len(line) > 120]
    assert not long, "\n".join(long)


# The house

def module_of(path) -> str: return path.stem.partition("_")[2]


def imported_rooms(source: str) -> set[str]:
    "Modules of simseg that a source imports, wherever in it."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level: names = [f"simseg.{node.module}"]
        elif isinstance(node, ast.ImportFrom): names = [node.module]
        elif isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        else: continue
        found |= {name.removeprefix("simseg.") for name in names if name.startswith("simseg.")}
    return found


def test_a_module_imports_only_from_rooms_above_it():
    "Numbers are unique and in the order of imports; 16_batch, which papermill itself loads, imports none of simseg."
    numbers = {module_of(path): path.stem.partition("_")[0] for path in LIBRARY}
    assert sorted(numbers.values()) == sorted(set(numbers.values()))
    assert sorted({int(number[:2]) for number in numbers.values()}) == list(range(18))
    for module, number in numbers.items():
        rooms = imported_rooms((ROOT / "simseg" / f"{module}.py").read_text())
        below = [room for room in rooms if numbers[room] >= number]
        assert not below, f"{module} imports from {below}"
        if module == "batch": assert not rooms


def codes_within(code: CodeType):
    "The code of every function and class in a code, and in those."
    for constant in code.co_consts:
        if not isinstance(constant, CodeType): continue
        yield constant
        yield from codes_within(constant)


@pytest.mark.parametrize("name", STAGES)
def test_no_function_of_a_stage_reads_a_parameter_as_a_global(name):
    "A default of the parameters cell, which lies in the same module, would silently stand in for what a run was asked."
    module = import_module(f"simseg.{name[3:]}")
    whole = compile(inspect.getsource(module), module.__file__, "exec")
    defaults = parameter_defaults(name)
    for code in codes_within(whole):
        read = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        assert not read & defaults.keys(), f"{code.co_qualname} reads {read & defaults.keys()}"


# Defaults live in the library

READ_DEFAULTS = """
import simseg
from simseg.core import parameter_defaults
from simseg.study import check_study, simclr_params

study = check_study({"label_ratios": [0.5], "seeds": [0], "encoders": {"animals": {"dataset": "synthetic"}}})
print(simseg.__file__)
print(parameter_defaults("simclr")["epochs"], simclr_params(study, "animals", 0)["epochs"])
"""


def read_defaults(library, folder) -> list[str]:  # where simseg lies, and the epochs of 08_simclr
    "What another simseg says, asked from a folder."
    command = [sys.executable, "-c", READ_DEFAULTS]
    environment = {**os.environ, "PYTHONPATH": str(library)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.splitlines()


def test_a_notebook_that_somebody_changed_and_saved_changes_no_default(checkout):
    epochs = parameter_defaults("simclr")["epochs"]
    path = checkout / "nbs" / "08_simclr.ipynb"
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
    exported = {path.name: path.read_text() for path in (checkout / "simseg").glob("*.py")}
    ours = {path.name: path.read_text() for path in (ROOT / "simseg").glob("*.py")}
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
