"A study in blocks: which epoch is kept, which images are labelled, which pretraining a seed uses, what is recorded."
import subprocess

import pytest
import torch
from conftest import BIN, ROOT, TWO_ENCODERS, pretrainings, run_dir, run_params, runs_of_cell, small, study_cells
from conftest import unet_params, with_our_commands

from simseg import unet
from simseg.base.files import read_json, read_yaml, write_csv, write_json, write_yaml
from simseg.images.sets import load_pairs
from simseg.images.data import read_known, split_data
from simseg.evidence.record import record_study
from simseg.study.grid import MINIATURE, runs_to_do, study_runs
from simseg.study.files import check_study
from simseg.unet import load_model, run_unet


@pytest.mark.parametrize("stop_after", [0, 1], ids=["at once", "stopped and resumed"])
def test_the_last_epoch_is_kept_where_it_is_asked_for(stop_after, tmp_path, monkeypatch):
    "The last epoch spoils the model, so a run shows it that keeps the epoch of the lowest loss."
    true_count = unet.count_images
    calls = []

    def count_images(model, *arguments):
        calls.append(model)
        if len(calls) == 2: model.segmentation_head[0].bias.data += 20.0
        return true_count(model, *arguments)

    monkeypatch.setattr(unet, "count_images", count_images)
    params = small("unet", tmp_path, epochs=2, keep="last", stop_after=stop_after)
    for _ in range(2): history = run_unet(params)
    kept = read_json(tmp_path / "metrics.json")
    assert kept["kept_epoch"] == 2 and kept["val_loss"] == history[1]["val_loss"] > 2 * history[0]["val_loss"]
    assert load_model(tmp_path / "model")[0].segmentation_head[0].bias.item() > 15
    assert "the last epoch" in (tmp_path / "model" / "README.md").read_text()


def test_of_an_average_its_own_last_weights_are_kept(tmp_path):
    run_unet(small("unet", tmp_path / "plain", keep="last", epochs=1))
    run_unet(small("unet", tmp_path / "average", keep="last", epochs=1, ema=0.9))
    plain, average = (load_model(tmp_path / name / "model")[0].state_dict() for name in ("plain", "average"))
    assert any(not torch.equal(plain[key], average[key]) for key in plain)


def test_another_draw_of_labels_learns_from_other_images_and_tests_on_the_same(tmp_path):
    learnt = {}
    for seed in (0, 1):
        run_unet(small("unet", tmp_path / str(seed), label_ratio=0.2, label_seed=seed, epochs=0))
        learnt[seed] = set(read_known(tmp_path / str(seed) / "model" / "learnt_from.safetensors")["ids"])
    assert len(learnt[0]) == len(learnt[1]) and learnt[0] != learnt[1]
    data = load_pairs("synthetic", 32, max_images=64)
    test = {data.ids[i] for i in split_data(data).test}
    assert not test & (learnt[0] | learnt[1])


BLOCKS = {**MINIATURE, "seeds": [0, 1, 2], "seeds_at": {}, "redraw_labels": True, "pretraining_seeds": [5, 6]}


def test_pretrainings_are_used_in_turn_and_labels_redrawn():
    study = check_study(BLOCKS)
    assert sorted(pretrainings(study)) == [("animals", 5), ("animals", 6)]
    params = {seed: unet_params(study, "animals", 0.2, seed) for seed in study["seeds"]}
    used = [params[seed]["encoder"] for seed in study["seeds"]]
    assert used == [run_dir(study, "simclr", "animals", seed) for seed in (5, 6, 5)]
    assert [params[seed]["label_seed"] for seed in study["seeds"]] == [0, 1, 2]
    assert runs_of_cell(study, "animals", 0.2, 2)[0] == ("simclr", "animals", 5)
    alone = check_study({**BLOCKS, "redraw_labels": False, "pretraining_seeds": []})
    assert unet_params(alone, "animals", 0.2, 2)["label_seed"] == 0
    assert unet_params(alone, "animals", 0.2, 2)["encoder"] == run_dir(alone, "simclr", "animals", 2)


@pytest.mark.parametrize("own", [{"encoder": "no/such.safetensors"}, {"dataset": "synthetic", "start": "no/such.pth"},
                                 {"dataset": "no/such/photos"}])
def test_a_file_that_is_missing_is_refused_when_the_study_starts_not_when_it_is_read(own):
    study = {**MINIATURE, "encoders": {"scratch": None, "theirs": own}, "recipes": {}}
    check_study(study)
    with pytest.raises(FileNotFoundError, match="no/such"): check_study(study, starting=True)


def without_root(study: dict, **more) -> dict:
    return {key: value for key, value in study.items() if key != "root"} | more


def finished_cells(study: dict, seeds: list[int], machine: str):
    "The files of evaluated cells, as a machine leaves them."
    for arm, ratio, seed in study_cells(study):
        if seed not in seeds: continue
        measured = {"unet": {"kept_epoch": 1, "val_iou": 0.5, "n_train": 9}}
        measured["evaluation"] = {"iou": 0.5 + seed, "n_images": 1}
        for stage, metrics in measured.items():
            folder = study["root"] / run_dir(study, stage, arm, seed, ratio)
            params = run_params(without_root(study), stage, arm, seed, ratio)
            write_yaml(folder / "params.yaml", {**params, "ran_on": {"commit": "c", "machine": machine, "images": "i"}})
            write_json(folder / "metrics.json", metrics)
            write_json(folder / "state.json", {"state": "done", "stage": stage, "when": f"2026-01-0{1 + seed}"})
            counts = {"name": "a", "id": "a", "tp": 1 + seed, "fp": 1, "fn": 1, "tn": 1, "iou": 0.3}
            write_csv(folder / "per_image.csv", [counts])
            write_csv(folder / "history.csv", [{"epoch": 1, "loss": 1.0, "val_loss": 1.0}])


@pytest.fixture
def two_seeds(workplace):
    "A study of two cells."
    small = {"encoders": {"scratch": None}, "recipes": {}, "label_ratios": [0.2], "seeds_at": {}}
    study = check_study({**MINIATURE, **small})
    return {**study, "root": workplace}


def test_what_is_recorded_is_added_to_and_never_dropped(two_seeds, workplace):
    study = without_root(two_seeds)
    finished_cells(two_seeds, [0], "one")
    folder = record_study(study)
    tables = ("results.csv", "histories.csv", "validation.csv")
    first = {name: (folder / name).read_text().splitlines() for name in tables}
    (workplace / "outputs" / study["name"]).rename(workplace / "gone")
    finished_cells(two_seeds, [1], "another")
    record_study(study)
    for name, lines in first.items():
        now = (folder / name).read_text().splitlines()
        assert set(lines) < set(now), name
    assert {name.rpartition("/")[2] for name in read_yaml(folder / "runs.yaml")} == {"seed0", "seed1"}
    assert runs_to_do(without_root(study, skip_recorded=True)) == []
    assert runs_to_do(study) == study_runs(study, "evaluation")


def test_a_block_of_two_machines_is_refused_and_the_record_stays(two_seeds):
    study = without_root(two_seeds)
    finished_cells(two_seeds, [0], "one")
    folder = record_study(study)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    finished_cells(two_seeds, [0], "another")
    run = two_seeds["root"] / run_dir(study, "evaluation", "scratch", 0, 0.2) / "params.yaml"
    write_yaml(run, {**read_yaml(run), "ran_on": {"commit": "c", "machine": "third", "images": "i"}})
    with pytest.raises(ValueError, match="seed 0|one machine"): record_study(study)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_snakemake_plans_cells_whose_pretrainings_are_used_in_turn(make_study):
    "Wildcards are text, and a seed among them is a number all the same."
    file, _ = make_study("turns", TWO_ENCODERS + "pretraining_seeds: [0]\n")
    command = [BIN / "snakemake", "--cores", "1", "--dry-run", "--config", f"study={file}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=with_our_commands())
    assert run.returncode == 0, run.stdout + run.stderr
