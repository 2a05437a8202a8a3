"Images without labels used before fine-tuning and during it: each compared within blocks, told in one place, and kept."
import pandas as pd
import pytest
from safetensors.numpy import load_file

from conftest import evaluation_params, pretrainings, simclr_params, study_cells, unet_params

from simseg.base.files import read_json, read_yaml, write_yaml
from simseg.evaluation import run_evaluation
from simseg.evidence.comparisons import compare_kinds
from simseg.evidence.figures import print_results
from simseg.evidence.record import record_study
from simseg.evidence.verdict import find_facts, say, write_facts
from simseg.simclr import run_simclr
from simseg.study.files import check_study
from simseg.study.results import collect_counts, collect_histories, collect_results, collect_validation
from simseg.unet import run_unet

AGREEING = {"augment": True, "consistency": 1.0, "label_ratios": [0.4], "encoders": ["scratch", "animals"]}
STUDY = {
    "name": "uses", "image_size": 32, "label_ratios": [0.8, 0.4], "seeds": [0, 1], "seeds_at": {0.8: [0]},
    "device": "cpu", "precision": "fp32",
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


def test_each_use_is_compared_within_blocks_and_kept(run, workplace, tmp_path, capsys):
    "Consistency against its twin without, the control nowhere; console, record and a second record say the same."
    results = collect_results(run)
    table = compare_kinds(run, results)
    uses = table[table["question"] == "consistency"].set_index("first")
    assert list(uses.index) == ["scratch", "simclr"]
    assert set(uses["recipe"]) == {"augmented"} and set(uses["blocks"]) == {2}
    iou = results.pivot(index=["label_ratio", "seed"], columns=["recipe", "encoder"], values="iou").loc[0.4]
    for kind, way in {"scratch": "scratch", "simclr": "animals"}.items():
        difference = (iou["agreeing", way] - iou["augmented", way]).mean()
        assert uses.loc[kind, "difference"] == pytest.approx(difference) and uses.loc[kind, "second"] == kind
    assert "untrained" not in {*table["first"], *table["second"]} and "control" not in {*table["first"]}

    counts = collect_counts(run)
    facts = find_facts(run, results, collect_histories(run), collect_validation(run), counts)
    write_facts(workplace / "outputs" / "uses", facts)
    print_results(workplace / "outputs" / "uses")
    lines = say(facts)
    assert capsys.readouterr().out.splitlines()[:len(lines)] == lines

    folder = record_study(run, tmp_path / "kept")
    kept = load_file(folder / "counts.safetensors")
    for (arm, ratio), (seeds, found) in counts.items():
        for seed, of_seed in zip(seeds, found): assert (kept[f"{arm}/ratio{ratio}/seed{seed}"] == of_seed).all()
    assert say(read_json(folder / "verdict.json")) == lines
    alone = pd.read_csv(folder / "comparisons.csv").query("question == 'start' and label_ratio == 0.8")
    assert set(alone["blocks"]) == {1} and (alone["images_low"] <= alone["images_high"]).all()  # over test images
    runs = read_yaml(folder / "runs.yaml")
    assert runs["unet/scratch-agreeing/ratio0.4/seed0"]["consistency"] == 1.0
    assert all("commit" in params["ran_on"] and params["minutes"] >= 0 for params in runs.values())

    without = results[results["recipe"] != "agreeing"]
    plain = {**run, "recipes": {"augmented": {"augment": True}}}
    assert "consistency" not in set(compare_kinds(plain, without)["question"])
