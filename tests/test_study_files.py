"""What people write into a study file: read as it is meant, or refused in one sentence with file and line.

Each mistake is one of its kind. The three ways in are `simseg status`, `make study` and Snakemake itself.
"""
import os
import subprocess

import pytest
import yaml
from conftest import BIN, ROOT, study_cells, unet_params, with_our_commands

from simseg.tools.command import main
from simseg.base.files import read_csv, write_csv
from simseg.evidence.figures import results_table
from simseg.evidence.record import reference_table
from simseg.study.files import begun_file, begun_study, check_study, note_origin, read_study, study_files

# line by line, so that a mistake's line can be counted
WHOLE = """name: mine
label_ratios: [0.5, 0.05]
seeds: [0]
encoders:
  scratch:
  animals:
    dataset: synthetic
unet:
  dataset: synthetic
  epochs: 2
"""


def write(folder, text: str | bytes):
    "A study file."
    file = folder / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def told(file, capsys, command="status") -> str:
    "What a command says of a file that it refuses, without the file's name."
    with pytest.raises(SystemExit) as ended: main([command, str(file)])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1 and said.startswith("simseg: ")
    return said.removeprefix("simseg: ").removeprefix(str(file)).rstrip()


UNREADABLE = {
    "a tab indents": ("name: mine\nunet:\n\tepochs: 2\n", ", line 3: a tab"),
    "a tab among spaces": ("name: mine\nunet:\n  epochs: 2\n\tloss: bce\n", ", line 4: a tab"),
    "a path of Windows": (WHOLE + 'data_root: "C:\\Users\\me"\n', ", line 11: a backslash in double quotes"),
    "another escape": (WHOLE + 'data_root: "D:\\data"\n', ", line 11: a backslash in double quotes"),
    "an open quote": ('name: "mine\nseeds: [0]\n' + WHOLE, ", line 1: a quote is not closed"),
    "an open bracket": ("seeds: [0, 1\n" + WHOLE, ", line 1: a bracket is not closed"),
    "an open brace": ("name: mine\nunet: {epochs: 2\nseeds: [0]\n", ", line 2: a bracket is not closed"),
    "no colon": ("name: mine\nepochs 3\nseeds: [0]\n", ", line 2: a colon is missing"),
    "a colon too many": ("name: mine\nunet: dataset: synthetic\n", ", line 2: a colon too many"),
    "indented otherwise": ("name: mine\nunet:\n   epochs: 2\n  loss: bce\n", ", line 4: a line that is indented"),
    "a pattern": ("name: mine\nunet:\n  dataset: *.png\n", ", line 3: there is no such alias"),
    "a key twice": ("name: mine\nseeds: [0]\nname: other\n", ", line 3: `name` is in line 1 already"),
    "a key twice below": (WHOLE + "  epochs: 3\n", ", line 11: `epochs` is in line 10 already"),
    "a ratio twice": (WHOLE + "seeds_at: {0.5: [1], 0.50: [2]}\n", ": seeds_at has the same label ratio twice"),
    "two documents": ("---\nname: mine\n---\nname: other\n", ", line 3: a second document"),
    "an object": ("name: !!python/object/apply:os.getcwd []\n", ", line 1: python/object/apply:os.getcwd is no plain"),
    "another tag": ("name: mine\nunet: !mine {epochs: 2}\n", ", line 2: !mine is no plain value"),
    "a list as a key": ("name: mine\n[a, b]: 2\n", ", line 2: a key is to be a name"),
    "a list": ("- name: mine\n", ", line 1: a file of `name: value` lines"),
    "a sentence": ("this is no study\n", ", line 1: a file of `name: value` lines"),
    "empty": ("", " is empty"),
    "comments alone": ("# name: mine\n", " is empty"),
    "Latin-1": ("name: mine\ndata_root: /Bücher\n".encode("latin-1"), ", line 2: this is no text in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ", line 1: this is no text in UTF-8"),
    "a control character": ("name: mine\nunet:\n  dataset: \x07\n", ", line 3: this is no text in UTF-8"),
    "deep": ("name: " + 5000 * "[", ", line 1: too much inside each other"),
    "deep by aliases": ("a: &a\n  b: *a\n", ", line 1: too many values"),
    "wide by aliases": ("a0: &a0 [0]\n" + "".join(
        f"a{i + 1}: &a{i + 1} [{','.join(10 * [f'*a{i}'])}]\n" for i in range(9)), ", line 1: too many values"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_yaml_cannot_read_is_told_with_its_line(kind, tmp_path, capsys):
    text, sentence = UNREADABLE[kind]
    file = write(tmp_path, text)
    for command in ("status", "report", "record"): assert told(file, capsys, command).startswith(sentence)


MISTAKEN = {  # what stands in the place of a line of the study, and what is said of it
    "an unknown parameter": ("  epochs: 2", "  epoch: 2", 10, "`epoch` is no parameter of unet in the study"),
    "an unknown key": ("seeds: [0]", "seed: [0]", 3, "`seed` is no key of a study file; did you mean `seeds`?"),
    "text for a number": ("  epochs: 2", "  epochs: two", 10, "epochs='two' is of type str"),
    "1e-6": ("  epochs: 2", "  learning_rate: 1e-6", 10, "learning_rate='1e-6' is of type str, but `lea"),
    "out of range": ("  epochs: 2", "  batch_size: 0", 10, "batch_size=0 is out of range"),
    "no such choice": ("  epochs: 2", "  loss: bec", 10, "loss='bec' is unknown"),
    "no such folder": ("    dataset: synthetic", "    dataset: photoes", 7, "dataset='photoes' is neither a folder"),
    "an encoder's parameter": ("    dataset: synthetic", "    dataset: pets\n    batch_size: 0", 8, "batch_size=0 is"),
    "no data set": ("    dataset: synthetic", "    epochs: 3", 6, "The encoder animals says neither a dataset"),
    "a list of encoders": ("  scratch:\n  animals:\n    dataset: synthetic", "  [scratch, animals]", 4,
                           "encoders=['scratch', 'animals'] is of type list, but `encoders` is of type dict"),
    "a word for a section": ("  scratch:", "  scratch: no", 5, "encoder scratch=False is of type bool, but"),
    "no encoders": ("  scratch:\n  animals:\n    dataset: synthetic", "", 4, "The study has no encoders"),
    "a number for a section": ("unet:\n  dataset: synthetic\n  epochs: 2", "unet: 2", 8, "unet=2 is of type int, but"),
    "a number for a list": ("seeds: [0]", "seeds: 0", 3, "seeds=0 is of type int, but `seeds` is of type list"),
    "a list in a list": ("seeds: [0]", "seeds: [[0]]", 3, "seeds=[0] is of type list, but `seeds` is of type int"),
    "twice in a list": ("seeds: [0]", "seeds: [0, 0]", 3, "seeds names one twice"),
    "a ratio out of range": ("[0.5, 0.05]", "[0.9]", 2, "label_ratios=0.9 is out of range"),
    "a ratio that is none": ("seeds: [0]", "seeds: [0]\nseeds_at: {half: [0]}", 4, "`half` is no label ratio for"),
    "a recipe's parameter": ("seeds: [0]", "seeds: [0]\nrecipes:\n  long:\n    epoch: 9", 6, "`epoch` is no param"),
    "a recipe's value": ("seeds: [0]", "seeds: [0]\nrecipes:\n  long:\n    ema: 2", 6, "ema=2 is"),
    "a recipe's encoder": ("seeds: [0]", "seeds: [0]\nrecipes:\n  long:\n    ema: 0.9\n    encoders: [animal]", 7,
                           "`animal` is no encoder for recipe long; did you mean `animals`?"),
    "a recipe's one encoder": ("seeds: [0]", "seeds: [0]\nrecipes:\n  long:\n    encoders: animals", 6,
                               "encoders of recipe long='animals' is of type str, but"),
    "a recipe of nothing": ("seeds: [0]", "seeds: [0]\nrecipes:\n  long:", 5, "recipe long=None is of type NoneType"),
    "resources": ("seeds: [0]", "seeds: [0]\nresources:\n  unet:\n    mem_mb: 4 GB", 6, "mem_mb='4 GB' is of type str"),
    "a name with a blank": ("  animals:", "  my animals:", 6, "`my animals` is to name the folders"),
    "a name too long": ("  animals:", f"  {300 * 'a'}:", 6, f"`{300 * 'a'}` is to name"),
    "names of one folder": ("  scratch:", "  scratch:\n  Animals: {dataset: synthetic}", 7, "`animals` and `Animals`"),
    "a folder of other things": ("name: mine", "name: reference", 1, "name='reference' is to name a folder"),
    "a dot at the end": ("name: mine", "name: mine.", 1, "name='mine.' is to name a folder"),
    "a folder too long": ("name: mine", f"name: {300 * 'm'}", 1, "name='mmm"),
    "elsewhere": ("name: mine", "name: ../mine", 1, "name='../mine' is to name a folder"),
    "a home": ("name: mine", "name: ~", 1, "name='~' is to name a folder"),
}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_what_makes_no_sense_is_told_with_its_line(kind, tmp_path, capsys):
    old, new, line, sentence = MISTAKEN[kind]
    assert WHOLE.count(old)
    file = write(tmp_path, WHOLE.replace(old, new, 1))
    said = told(file, capsys)
    assert said.startswith(f", line {line}: {sentence}"), said


def test_a_folder_and_a_file_that_is_not_there(tmp_path, capsys):
    assert told(tmp_path, capsys) == " is a folder; name a file."
    said = told("params/quikstart.yaml", capsys)
    assert said == "`params/quikstart.yaml` is no study file; did you mean `params/quickstart.yaml`?"


NAMES = ["no", "on", "yes", "off", "null", "None", "NA", "nan", "inf", "True", "false", "007", "2024", "1e3", "0x1F",
         "0b1", "1_000", "é", "类"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_what_is_written(name, tmp_path, workplace):
    "Of an encoder, a recipe and the study; from the file, through the study's own copy of it, to a run's folder."
    encoders = f"encoders: {{scratch: , {name}: {{dataset: synthetic, compile: off, published: {name}}}}}"
    recipes = f"recipes: {{{name}: {{ema: 0.9, encoders: [{name}]}}}}"
    file = write(tmp_path, f"name: {name}\nlabel_ratios: [0.5]\nseeds: [0]\n{encoders}\n{recipes}\n")
    study = read_study(file)
    assert study["name"] == name and list(study["encoders"]) == ["scratch", name] and list(study["recipes"]) == [name]
    assert study["encoders"][name] == {"dataset": "synthetic", "compile": "off", "published": name}
    assert study_cells(study)[1:] == [(name, 0.5, 0), (f"{name}-{name}", 0.5, 0)]
    note_origin(study, file)
    assert begun_study(file) == read_study(begun_file(file)) == study
    assert begun_file(file) == workplace / "outputs" / name / "study.yaml"
    asked = unet_params(study, f"{name}-{name}", 0.5, 0)  # as Snakemake hands it to papermill
    assert yaml.safe_load(yaml.safe_dump(asked, default_flow_style=True)) == asked


@pytest.mark.parametrize("name", ["1.0", "2024-01-01"])
def test_a_study_may_be_called_by_a_version_or_a_date(name, tmp_path):
    assert read_study(write(tmp_path, WHOLE.replace("mine", name)))["name"] == name


@pytest.mark.parametrize("ratio", ["0.05", "'0.05'", "5.0e-2", "5e-2", ".05", "0.050"])
def test_a_label_ratio_is_a_number_however_it_is_written(ratio, tmp_path):
    study = read_study(write(tmp_path, f"{WHOLE}  epochs_at: {{{ratio}: 4}}\nseeds_at:\n  {ratio}: [3]\n"))
    assert study["seeds_at"] == {0.05: [3]} and study["unet"]["epochs_at"] == {0.05: 4}
    assert ("scratch", 0.05, 3) in study_cells(study) and unet_params(study, "scratch", 0.05, 3)["epochs"] == 4


FORMS = {
    "Windows' line ends": WHOLE.replace("\n", "\r\n"), "a mark at the beginning": "\ufeff" + WHOLE,
    "a document's line": "---\n" + WHOLE,
    "UTF-16": WHOLE.encode("utf-16"),
    "JSON": '{"name": "mine", "label_ratios": [0.5, 0.05], "seeds": [0], "encoders": {"scratch": null,\n\t"animals": '
            '{"dataset": "synthetic"}}, "unet": {"dataset": "synthetic", "epochs": 2}}',
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_file_that_are_read(form, tmp_path):
    assert read_study(write(tmp_path, FORMS[form])) == check_study(yaml.safe_load(WHOLE))


def test_a_broken_file_does_not_hide_the_others(workplace):
    "It is offered like them, and told when it is opened."
    (workplace / "params").mkdir()
    (workplace / "params" / "broken.yaml").write_text("name: broken\nencoders: [\n")
    (workplace / "params" / "mine.yaml").write_text(WHOLE)
    assert study_files() == ["params/broken.yaml", "params/mine.yaml"]
    with pytest.raises(ValueError, match="^params/broken.yaml, line 2: a bracket"): read_study("params/broken.yaml")


def test_what_the_command_line_changes_is_told_as_such(tmp_path):
    file = write(tmp_path, WHOLE)
    assert read_study(file, changes={"unet": {"epochs": 5}})["unet"] == {"dataset": "synthetic", "epochs": 5}
    with pytest.raises(ValueError, match="^--config: `epoch` is no"): read_study(file, changes={"unet": {"epoch": 5}})


# Tables that are read again

def test_names_stay_names_in_tables(tmp_path):
    "In every column of names; numbers stay numbers, and one that is missing is not a number."
    columns = ["encoder", "recipe", "arm", "first", "name"]
    rows = [{**dict.fromkeys(columns, name), "iou": None if name == "NA" else 0.5} for name in NAMES]
    table = read_csv(write_csv(tmp_path / "results.csv", rows))
    for column in columns: assert table[column].tolist() == NAMES
    assert table["iou"].dtype == float and table["iou"].isna().sum() == 1


def test_a_way_to_start_called_na_is_in_the_tables_of_a_recorded_study(workplace):
    folder = workplace / "outputs" / "reference" / "mine"
    cell = {"recipe": "null", "label_ratio": 0.5, "seed": 0, "iou": 0.7}
    rows = [{"encoder": name, **cell} for name in ("scratch", "NA")]
    write_csv(folder / "results.csv", rows)
    assert list(results_table(reference_table("mine", "results")).index) == ["scratch (null)", "NA (null)"]


# From the command line

def run(*command):
    "A command's exit code and what it said."
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_our_commands())
    return done.returncode, done.stdout + done.stderr


def test_snakemake_tells_a_mistake_with_its_line(tmp_path):
    file = write(tmp_path, WHOLE.replace("  animals:", "  no:").replace("  epochs: 2", "  epoch: 2"))
    code, said = run(BIN / "snakemake", "--cores", "1", "--configfile", file)
    assert code == 1 and f"simseg: {file}, line 10: `epoch` is no parameter" in said and "Traceback" not in said


@pytest.mark.parametrize("study, sentence", [
    ("params/quikstart.yaml", "`params/quikstart.yaml` is no study file; did you mean `params/quickstart.yaml`?"),
    ("it's mine", "`params/it's mine.yaml` is no study file; "),
])
def test_make_tells_a_study_that_is_not_there(study, sentence):
    code, said = run("make", "--assume-old", ".venv/installed", "study", f"STUDY={study}")
    assert code == 2 and f"simseg: {sentence}" in said and "Traceback" not in said


def test_make_tells_what_yaml_cannot_read(tmp_path):
    write(tmp_path, "name: mine\nunet:\n\tepochs: 2\n")
    folder = os.path.relpath(tmp_path, ROOT / "params")
    code, said = run("make", "--assume-old", ".venv/installed", "study", f"STUDY=params/{folder}/mine.yaml")
    assert code == 2 and f"simseg: {tmp_path}/mine.yaml, line 3: a tab" in said and "Traceback" not in said
