"A method other than SimCLR takes ten lines and runs like it."
import pytest
from conftest import small
from torch import nn

from simseg import simclr
from simseg.base.run import read_params
from simseg.evaluation import run_evaluation
from simseg.simclr import run_simclr
from simseg.study.files import check_study
from simseg.study.grid import study_runs
from simseg.study.results import collect_results
from simseg.unet import run_unet


class Toy(simclr.SimCLR):
    "Views of one image agree, and each coordinate keeps its spread over the images (Bardes et al., 2022, section 4.1)."

    def make_head(self, features, hidden, dim): return nn.Linear(features, dim)

    def loss(self, first, second, params):
        too_narrow = [(1 - (z.float().var(0) + 1e-4).sqrt()).clamp(min=0).mean() for z in (first, second)]
        return 25 * ((first - second).float().square().mean() + sum(too_narrow))


def test_a_toy_method_runs_from_start_to_encoder(tmp_path, monkeypatch):
    monkeypatch.setitem(simclr.METHODS, "toy", Toy)
    params = small("simclr", tmp_path, method="toy", epochs=2, optimizer="adamw", learning_rate=1e-3)
    history = run_simclr(params)
    assert len(history) == 2 and min(row["val_loss"] for row in history) > 10  # NT-Xent of so few is below 4
    assert (tmp_path / "encoder.safetensors").is_file()
    assert read_params(tmp_path)["method"] == "toy"
    other = small("simclr", tmp_path, epochs=2, optimizer="adamw", learning_rate=1e-3)
    with pytest.raises(ValueError, match="holds another run .method='toy', here method='simclr'"): run_simclr(other)


def test_a_toy_method_runs_through_a_study(workplace, monkeypatch):
    monkeypatch.setitem(simclr.METHODS, "toy", Toy)
    study = check_study({
        "name": "toys", "image_size": 32, "label_ratios": [0.8], "seeds": [0], "device": "cpu",
        "encoders": {"scratch": None, "toy": {"dataset": "synthetic", "method": "toy"}},
        "simclr": {"max_images": 64, "batch_size": 16, "epochs": 1, "optimizer": "adamw", "learning_rate": 1e-3},
        "unet": {"dataset": "synthetic", "max_images": 64, "epochs": 1},
    })
    stages = {"simclr": run_simclr, "unet": run_unet, "evaluation": run_evaluation}
    for run in study_runs(study): stages[run.stage](run.params)
    assert collect_results(study)["encoder"].tolist() == ["scratch", "toy"]


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(ValueError, match="method='toy' is unknown; choose one of simclr"):
        run_simclr(small("simclr", tmp_path, method="toy"))
