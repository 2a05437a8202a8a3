"Images without labels used before fine-tuning, during it, or both: compared with scratch, counted, and kept."
import re

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from simseg.compare import compare_arms, compare_uses, encoder_pairs, uses_table
from simseg.core import read_json, read_yaml, write_csv, write_json, write_yaml
from simseg.evaluation import run_evaluation
from simseg.report import print_results, record_study
from simseg.simclr import run_simclr
from simseg.statistics import compare
from simseg.study import (check_study, collect_counts, collect_results, evaluation_params, pretrainings, run_dir,
                          simclr_params, study_cells, unet_params)
from simseg.unet import run_unet
from simseg.verdict import _above_scratch, verdict

AGREEING = {"augment": True, "consistency": 1.0, "label_ratios": [0.4], "encoders": ["scratch", "animals"]}
STUDY = {
    "name": "uses", "image_size": 32, "label_ratios": [0.8, 0.4], "seeds": [0, 1], "device": "cpu", "precision": "fp32",
    "encoders": {"scratch": None, "untrained": {"dataset": "synthetic", "epochs": 0},
                 "animals": {"dataset": "synthetic"}},
    "recipes": {"augmented": {"augment": True}, "agreeing": AGREEING},
    "simclr": {"max_images": 64, "batch_size": 32, "epochs": 2, "optimizer": "adamw", "learning_rate": 1e-3},
    "unet": {"dataset": "synthetic", "max_images": 64, "batch_size": 16, "epochs": 2},
}


@pytest.fixture
def run(workplace):
    "That study, run."
    study = check_study(STUDY)
    write_yaml(workplace / "outputs" / "uses" / "study.yaml", study)
    for pair in pretrainings(study): run_simclr(simclr_params(study, *pair))
    for cell in study_cells(study):
        run_unet(unet_params(study, *cell))
        run_evaluation(evaluation_params(study, *cell))
    return study


def test_each_use_is_compared_with_scratch_and_counted(run, workplace, tmp_path, capsys):
    "Under the twin recipe; the control is no use; and what is kept gives the same differences again."
    counts = collect_counts(run)
    uses = compare_uses(run, counts).set_index("use")
    assert list(uses.index) == ["consistency", "pretraining on animals", "pretraining on animals, then consistency"]
    assert set(uses["recipe"]) == {"augmented"} and set(uses["label_ratio"]) == {0.4} and set(uses["n_seeds"]) == {2}
    scratch = counts["scratch-augmented", 0.4][1]
    for use, arm in zip(uses.index, ["scratch-agreeing", "animals-augmented", "animals-agreeing"]):
        assert uses.loc[use, "difference"] == pytest.approx(compare(counts[arm, 0.4][1], scratch).value)
    unet = read_json(workplace / run_dir(run, "unet", "scratch-agreeing", 0, 0.4) / "metrics.json")
    simclr = read_json(workplace / run_dir(run, "simclr", "animals", 0) / "metrics.json")
    seen = [2 * unet["n_train"], 2 * simclr["n_train"], 2 * unet["n_train"] + 2 * simclr["n_train"]]
    assert uses["images_seen"].tolist() == seen
    assert uses.loc["pretraining on animals", "minutes"] > 0
    assert uses_table(uses.reset_index())["unlabelled images seen"].tolist() == [f"{n:,}" for n in seen]

    folder = record_study(run, tmp_path / "kept")
    kept = load_file(folder / "counts.safetensors")
    for (arm, ratio), (seeds, found) in counts.items():
        for seed, of_seed in zip(seeds, found): assert np.array_equal(kept[f"{arm}/ratio{ratio}/seed{seed}"], of_seed)
    ours = compare_arms(run, counts)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "comparisons.csv"), ours, check_dtype=False)
    runs = read_yaml(folder / "runs.yaml")
    assert runs["unet/scratch-agreeing/ratio0.4/seed0"]["consistency"] == 1.0
    assert all("commit" in params["ran_on"] and params["minutes"] >= 0 for params in runs.values())
    sentences = verdict(run, collect_results(run), ours, compare_uses(run, counts))
    assert sentences[-1].startswith("Consistency")
    for name, table in {"comparisons": ours, "uses": uses.reset_index()}.items():
        write_csv(workplace / "outputs" / "uses" / f"{name}.csv", table)
    print_results(run)
    assert capsys.readouterr().out.splitlines()[:len(sentences)] == sentences


def test_a_study_without_consistency_has_no_uses():
    study = check_study({**STUDY, "recipes": {"augmented": {"augment": True}}})
    assert not len(compare_uses(study, {("scratch", 0.4): ([0], np.ones((1, 9, 2)))}))


def test_one_run_on_a_faster_machine_does_not_move_the_minutes(monkeypatch):
    study = check_study({**STUDY, "seeds": [0, 1, 2]})
    minutes = {"scratch-augmented": [2, 2, 2], "scratch-agreeing": [10, 10, 0.1]}
    monkeypatch.setattr("simseg.compare._cost", lambda study, arm, ratio, seed: (minutes[arm][seed], 320))
    counts = {(arm, 0.4): ([0, 1, 2], np.ones((3, 9, 2))) for arm in minutes}
    uses = compare_uses(study, counts)
    assert uses["minutes"].tolist() == [8] and uses["images_seen"].tolist() == [320]


def said(difference: float, noise: float, seeds: int, **more: float) -> str:
    "The verdict's sentence on consistency that is better than scratch by so much, made up; `more`: other arms' gains."
    rng = np.random.default_rng(0)
    level = {"scratch-augmented": 0.6, "scratch-agreeing": 0.6 + difference}
    level |= {f"{encoder}-agreeing": 0.6 + gain for encoder, gain in more.items()}
    counts = {}
    for arm, iou in level.items():
        hits = (iou + rng.normal(0, noise, (seeds, 1)) + rng.normal(0, 0.02, (seeds, 200))).clip(0.01, 0.99) * 1000
        counts[arm, 0.4] = (list(range(seeds)), np.stack([hits, np.full_like(hits, 1000)], 2))
    study = check_study(STUDY)
    pretraining = pd.DataFrame([{"first": "animals", "second": "scratch", "recipe": "base", "label_ratio": 0.4,
                                 "difference": 0.0, "images_low": -0.1, "images_high": 0.1, "seeds_low": -0.1,
                                 "seeds_high": 0.1, "n_seeds": 3, "verdict": "open"}])
    results = pd.DataFrame([{"encoder": "scratch", "recipe": "base", "label_ratio": 0.4, "seed": 0, "iou": 0.6}])
    return verdict(study, results, pretraining, compare_uses(study, counts))[-1]


@pytest.mark.parametrize("difference, noise, seeds, words", [
    (0.1, 0.002, 3, r"is better than scratch at 40% labels: \+0\.1\d\d IoU \(95 %: \+.* to \+.*, 3 seeds\)\."),
    (-0.1, 0.002, 3, r"is worse than scratch at 40% labels: -0\.\d+ IoU \(95 %: -.* to -.*, 3 seeds\)\."),
    (0.1, 0.002, 1, r"looks better than scratch at 40% labels and needs more seeds: \+0\.\d+ IoU"),
    (0.0, 0.05, 3, r"shows no difference: "),
])
def test_what_a_verdict_says_of_consistency(monkeypatch, difference, noise, seeds, words):
    monkeypatch.setattr("simseg.compare._cost", lambda *cell: (0.0, 0))
    assert re.search(words, said(difference, noise, seeds))


def test_a_verdict_says_what_consistency_does_after_pretraining(monkeypatch):
    monkeypatch.setattr("simseg.compare._cost", lambda *cell: (0.0, 0))
    after = r"shows no difference: .*; with pretraining before it, it is better than scratch at 40% labels: \+0\.1"
    assert re.search(after, said(0.0, 0.002, 3, animals=0.1))


def test_single_seeds_that_differ_are_not_counted_together():
    rows = pd.DataFrame({"label_ratio": [0.4, 0.2], "difference": [0.02, -0.01], "images_low": [0.01, -0.02],
                         "images_high": [0.03, -0.001], "seeds_low": np.nan, "seeds_high": np.nan, "n_seeds": 1,
                         "verdict": "one seed"})
    assert _above_scratch(rows).startswith("looks better than scratch at 40% labels and needs more seeds: +0.020")


def test_encoders_that_saw_as_many_images_are_compared(workplace):
    "A smaller set takes more epochs; another length of pretraining is no comparison of images."
    encoders = {"scratch": None, "few": {"dataset": "synthetic", "epochs": 8, "warmup_epochs": 4},
                "many": {"dataset": "synthetic_objects"}}
    study = check_study({**STUDY, "encoders": encoders, "recipes": {}})
    pair = ("many", "few")
    assert pair not in encoder_pairs(study)  # nobody knows yet
    for n_few, alike in ((16, True), (17, False)):
        for encoder, n in {"few": n_few, "many": 64}.items():
            write_json(workplace / run_dir(study, "simclr", encoder, 0) / "metrics.json", {"n_train": n})
        assert (pair in encoder_pairs(study)) == alike
    study["encoders"]["few"] = {"dataset": "synthetic", "warmup_epochs": 0}
    assert pair not in encoder_pairs(study)
