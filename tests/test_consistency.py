"Images without labels in fine-tuning: which they are, what a run leaves, and that a run goes on as if never cut off."
import numpy as np
import pytest
import torch
from conftest import small, unet_params

from simseg import unet
from simseg.learning import consistency
from simseg.learning.consistency import Consistency
from simseg.base.files import read_json, read_yaml
from simseg.base.parameters import make_accelerator
from simseg.images.sets import load_pairs
from simseg.images.data import read_known, split_data
from simseg.evaluation import run_evaluation
from simseg.base.run import Kept
from simseg.study.files import check_study
from simseg.unet import run_unet

ASKED = {"consistency": 1.0, "label_ratio": 0.2, "epochs": 3, "max_images": 96}


def drawn_images(params: dict):
    "A run's images and their parts at its own label ratio and at the whole development set."
    data = load_pairs(params["dataset"], params["image_size"], max_images=params["max_images"])
    return data, split_data(data, params["label_ratio"]), split_data(data)


@pytest.fixture
def seen(monkeypatch):
    "Indices of every image that a run takes without its label."
    found = []

    class Watched(Consistency):
        def next_views(self, n):
            found.append(self.unlabelled.numpy())
            return super().next_views(n)

    monkeypatch.setattr(unet, "Consistency", Watched)
    return found


def test_images_without_labels_are_of_the_development_set_alone(tmp_path, seen):
    "Neither test images, nor any whose label the run uses; all of them are named in the model's folder."
    params = small("unet", tmp_path / "run", **ASKED)
    history = run_unet(params)
    data, part, everything = drawn_images(params)
    (unlabelled,) = {tuple(indices) for indices in seen}
    assert not set(unlabelled) & {*everything.test, *part.train, *part.val}
    assert {*unlabelled, *part.train, *part.val} == {*everything.train, *everything.val}
    assert read_json(tmp_path / "run" / "metrics.json")["n_unlabelled"] == len(unlabelled)
    known = read_known(tmp_path / "run" / "model" / "learnt_from.safetensors")
    assert set(known["ids"]) == set(np.array(data.ids)[[*everything.train, *everything.val]])
    assert all(0 <= row["sure"] <= 1 and row["consistency_loss"] >= 0 for row in history)


def test_a_run_without_it_is_as_it_was(tmp_path, seen):
    "No image without a label is read, and nothing of it stands in what the run leaves."
    history = run_unet(small("unet", tmp_path / "run", label_ratio=0.8))
    assert not seen and "sure" not in history[0]
    assert "n_unlabelled" not in read_json(tmp_path / "run" / "metrics.json")


@pytest.mark.parametrize("ema", [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_run_in_sittings_ends_where_it_would_at_once(ema, tmp_path, monkeypatch):
    "Order and views of the images without labels go on too, and the average, here sure of every pixel."
    monkeypatch.setattr(consistency, "SURE", 0.5)
    asked = {**ASKED, "epochs": 2, "ema": ema}
    run_unet(small("unet", tmp_path / "once", **asked))
    for _ in range(2): run_unet(small("unet", tmp_path / "sittings", stop_after=1, **asked))
    for name in ("metrics.json", "model/model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "sittings" / name).read_bytes()


def begun(params: dict):
    "A model, drawn images and masks, and an accelerator."
    torch.manual_seed(0)
    data, *_ = drawn_images(params)
    return unet.make_unet("scratch", "resnet18"), torch.from_numpy(data.images), torch.from_numpy(data.masks)


def test_the_average_that_sets_the_targets_is_not_kept(tmp_path):
    "Unless the run asks for an average to keep, which is another one."
    for ema in (0.0, 0.5):
        params = small("unet", tmp_path, ema=ema, **{**ASKED, "epochs": 1})
        model, images, masks = begun(params)
        kept = Kept()
        data = unet.TrainingSet(images, masks, torch.arange(32), torch.arange(32, 48), torch.arange(48, 96))
        list(unet.finetune(model, data, params, make_accelerator("cpu"), kept))
        weights = model.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in kept.weights.items()) == (not ema)


def test_what_batch_norm_remembers_is_of_labelled_images_alone(tmp_path):
    "By it test images are judged; the strong views of the others are normalised by themselves."
    remembered = {}
    for weight in (0.0, 1.0):
        params = small("unet", tmp_path, learning_rate=1e-12, **{**ASKED, "consistency": weight, "epochs": 1})
        model, images, masks = begun(params)
        data = unet.TrainingSet(images, masks, torch.arange(32), torch.arange(32, 48), torch.arange(48, 96))
        list(unet.finetune(model, data, params, make_accelerator("cpu"), Kept()))
        remembered[weight] = {key: value for key, value in model.state_dict().items() if "running" in key}
    for key, value in remembered[0.0].items(): torch.testing.assert_close(remembered[1.0][key], value)


def test_no_label_left_is_said_before_a_study_runs():
    study = {"name": "s", "label_ratios": [0.8, 0.2], "seeds": [0], "encoders": {"scratch": None},
             "recipes": {"consistency": {"consistency": 1.0}}}
    with pytest.raises(ValueError, match="label_ratio=0.8 leaves none; take a smaller label_ratio"): check_study(study)
    study["recipes"]["consistency"]["label_ratios"] = [0.2]
    checked = check_study(study)
    assert unet_params(checked, "scratch-consistency", 0.2, 0)["consistency"] == 1.0
    assert unet_params(checked, "scratch", 0.2, 0)["consistency"] == 0.0


def test_its_model_is_evaluated_like_any(tmp_path):
    run_unet(small("unet", tmp_path / "run", **{**ASKED, "epochs": 1}))
    asked = {"model_dir": str(tmp_path / "run" / "model"), "max_images": ASKED["max_images"]}
    run_evaluation(small("evaluation", tmp_path / "evaluation", **asked))
    found = read_json(tmp_path / "evaluation" / "metrics.json")
    params = read_yaml(tmp_path / "run" / "params.yaml")
    _, part, _ = drawn_images(params)
    assert found["n_images"] == len(part.test)
