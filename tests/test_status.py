"What belongs to a study and what does not, from the files of its runs."
import pytest
import yaml

from conftest import evaluation_params, judge_cells, run_dir, study_cells, unet_params

from simseg.tools.command import main
from simseg.base.files import read_json, resolve_path, write_csv, write_json, write_yaml
from simseg.base.run import RunFolder, file_fingerprint
from simseg.study.files import begun_study, check_not_taken, check_study, note_origin
from simseg.study.results import failed_and_stale, study_progress
from simseg.study.results import collect_counts, collect_results, collect_validation

STUDY = """
name: made-up
image_size: 32
label_ratios: [0.5, 0.2]
seeds: [0, 1]
encoders: {scratch: }
unet: {dataset: synthetic, max_images: 64, epochs: 2}
""".replace("made-up", "made_up")
EPOCHS = [{"epoch": epoch, "loss": 0.7, "val_loss": 0.6 - epoch / 10, "val_iou": epoch / 10} for epoch in (1, 2)]


@pytest.fixture
def study(workplace):
    "A study file, of which nothing has run."
    (workplace / "mine.yaml").write_text(STUDY)
    return begun_study("mine.yaml")


def pretend(study, cell, images="sheep", precision="fp32", names="abc", **changed):
    "The files that a cell leaves, without its training."
    here = {"device": "cpu", "precision": precision}
    unet = {**unet_params(study, *cell), **here, **changed}
    with RunFolder("unet", unet) as run:
        run.claim(images=images, encoder="scratch")
        run.fit(EPOCHS[:unet["epochs"]])
        write_json(run.folder / "model" / "config.json", {"epochs": unet["epochs"]})
        run.finish({"kept_epoch": 2, "val_iou": 0.2, "n_train": 9})
        model = file_fingerprint(run.folder / "model")
    with RunFolder("evaluation", {**evaluation_params(study, *cell), **here}) as run:
        run.claim(images=images, model=model)
        write_csv(run.folder / "per_image.csv", [{"id": name, "tp": 6, "fp": 1, "fn": 3, "tn": 22} for name in names])
        run.finish({"iou": 0.6, "n_images": len(names)})


def pretend_all(study, **how):
    for cell in study_cells(study): pretend(study, cell, **how)


def test_cells_alike_all_count(study):
    pretend_all(study)
    assert set(judge_cells(study).values()) == {""}
    assert len(collect_results(study)) == 4 and failed_and_stale(study_progress(study)) == []


def test_a_cell_run_by_hand_with_other_epochs_is_no_result(study):
    pretend_all(study)
    pretend(study, ("scratch", 0.2, 1), epochs=1)
    assert collect_results(study)["seed"].tolist() == [0, 1, 0]
    assert [seeds for seeds, _ in collect_counts(study).values()] == [[0, 1], [0]]
    stale = ["stale: unet scratch 20% seed 1: unet with epochs=1, here epochs=2"]
    assert failed_and_stale(study_progress(study)) == stale


@pytest.mark.parametrize("other, said", [
    ({"images": "sheep and goats"}, "images sheep, now sheep and goats"),
    ({"precision": "bf16"}, "precision of unet fp32, now bf16"),
    ({"names": "abcd"}, "test images "),
])
def test_cells_of_other_images_or_precision_make_no_table(study, other, said):
    "One cell was run since; so the others are of what is no more."
    pretend_all(study)
    cell = ("scratch", 0.5, 1)
    pretend(study, cell, **other)
    evaluation = evaluation_params(study, *cell)["out_dir"]
    write_json(f"{evaluation}/state.json", {**read_json(f"{evaluation}/state.json"), "when": "2999-01-01T00:00:00"})
    assert collect_results(study)[["label_ratio", "seed"]].values.tolist() == [[0.5, 1]]
    lines = failed_and_stale(study_progress(study))
    assert len(lines) == 1 and lines[0].startswith(f"stale: unet scratch 50% seed 0 and 2 more: {said}")


def test_the_precision_that_a_study_names_is_its_own(study):
    pretend_all(study, precision="fp32")
    assert len(collect_results({**study, "precision": "fp32"})) == 4
    assert len(collect_results({**study, "precision": "bf16"})) == 0


def test_a_model_made_anew_makes_its_evaluation_stale(study):
    cell = ("scratch", 0.5, 0)
    pretend(study, cell)
    with RunFolder("unet", {**unet_params(study, *cell), "device": "cpu", "precision": "fp32"}) as run:
        run.claim(images="other", encoder="scratch")
        assert not len(collect_results(study))
        write_json(run.folder / "model" / "config.json", {"epochs": "other"})
        run.finish({"kept_epoch": 2, "val_iou": 0.2, "n_train": 9})
    assert judge_cells(study)[cell] == "its model has been made anew"


def test_a_finished_cell_whose_rerun_failed_is_evaluated_no_more(study):
    pretend_all(study)
    with pytest.raises(RuntimeError):
        with RunFolder("unet", {**unet_params(study, "scratch", 0.5, 0), "batch_size": 7}) as run:
            run.claim()
            raise RuntimeError("out of memory")
    assert len(collect_results(study)) == 3
    assert failed_and_stale(study_progress(study)) == ["failed: unet scratch 50% seed 0: out of memory"]
    states = study_progress(study)["state"].value_counts().to_dict()
    assert states == {"evaluated": 3, "failed": 1}


def test_a_name_is_not_taken_twice(study):
    "A changed file may go on; a copy with another recipe may not; one that only runs otherwise may."
    other = check_study({**study, "unet": {**study["unet"], "epochs": 3}})
    check_not_taken(other, "copy.yaml")  # nothing has run yet
    note_origin(study, "mine.yaml")
    check_not_taken(other, "mine.yaml")
    check_not_taken({**study, "data_root": "/data", "device": "cpu", "threads": 2}, "copy.yaml")
    with pytest.raises(ValueError, match=r"holds the study of mine.yaml \(unet.epochs=2, here unet.epochs=3\)"):
        check_not_taken(other, "copy.yaml")


def said_by(capsys, *arguments):
    "Exit code of the command `simseg`, and what it printed."
    with pytest.raises(SystemExit) as end: main(list(arguments))
    printed = capsys.readouterr()
    return end.value.code, printed.out + printed.err


def test_status_from_the_files_alone(study, workplace, capsys):
    "Waiting, running with its epoch and time left, cut off, failed, done."
    pretend(study, ("scratch", 0.5, 0))
    with RunFolder("unet", unet_params(study, "scratch", 0.5, 1)) as run:
        run.claim()
        run.fit(EPOCHS[:1])
        code, said = said_by(capsys, "status", "mine.yaml")
        assert code == 0
        assert "epoch 1 of 2 1 min left" in said
    _, said = said_by(capsys, "status", "mine.yaml")
    assert "cut off after epoch 1 of 2" in said
    for words in ("of 4 runs 2 waiting", "1 evaluated", "1 cut off"): assert words in said
    for cell in study_cells(study): pretend(study, cell)
    code, said = said_by(capsys, "status", "mine.yaml")
    assert code == 0 and "of 4 runs 4 evaluated." in said


def test_status_needs_no_images(study, workplace, capsys):
    "A study that has run is looked at when its images have gone."
    gone = {**study, "unet": {**study["unet"], "dataset": str(workplace / "gone")}}
    note_origin(gone, "mine.yaml")
    write_yaml("mine.yaml", {key: gone[key] for key in yaml.safe_load(STUDY)})
    code, said = said_by(capsys, "status", "mine.yaml")
    assert code == 0 and "of 4 runs 4 waiting" in said


@pytest.mark.parametrize("stage, name", [("unet", "state.json"), ("unet", "metrics.json"), ("unet", "params.yaml"),
                                         ("evaluation", "state.json"), ("evaluation", "metrics.json"),
                                         ("evaluation", "per_image.csv"), ("evaluation", "params.yaml")])
@pytest.mark.parametrize("content", [b"", b"[]", bytes(50), b"iou,tp"])
def test_a_damaged_file_is_named_and_its_cell_makes_no_result(study, stage, name, content):
    pretend_all(study)
    cell = ("scratch", 0.5, 0)
    file = resolve_path(run_dir(study, stage, *[cell[i] for i in (0, 2, 1)])) / name
    file.write_bytes(content)
    assert len(collect_results(study)) == 3 and len(collect_validation(study)) == 4 - (stage == "unet")
    table = study_progress(study)
    assert table["state"].tolist().count("evaluated") == 3
    line, = failed_and_stale(table)
    assert line.startswith("failed: unet scratch 50% seed 0: ") and str(file) in line and "; delete " in line
