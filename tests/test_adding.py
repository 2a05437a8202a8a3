"A loss, or a metric, is added in one place: an entry of its table. Everything else follows."
import numpy as np
import pytest
from conftest import small

from simseg.base.files import read_json
from simseg.evaluation import run_evaluation
from simseg.images.masks import IGNORED
from simseg.learning import metrics
from simseg.unet import run_unet


def hinge(logits, targets):
    "A toy: the hinge loss of one thing, the mean over the pixels that count."
    counted = targets != IGNORED
    sign = 2 * (targets * counted) - 1
    return ((1 - sign * logits).clamp_min(0) * counted).sum() / counted.sum().clamp_min(1)


@pytest.mark.parametrize("parts", [[hinge], [metrics.dice, hinge]], ids=["alone", "in a sum"])
def test_a_loss_that_was_added_is_trained_with_and_measured(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.LOSSES, "toy", parts)
    history = run_unet(small("unet", tmp_path / "unet", loss="toy", epochs=2, learning_rate=3e-3))
    assert history[-1]["loss"] < history[0]["loss"]
    asked = small("evaluation", tmp_path / "test", model_dir=str(tmp_path / "unet" / "model"), border="ignore")
    found, _ = run_evaluation(asked)
    assert found["hinge_loss"] > 0 and read_json(tmp_path / "test" / "metrics.json") == pytest.approx(found)
    by_epoch = [row["val_loss"] for row in history]
    assert read_json(tmp_path / "unet" / "metrics.json")["val_loss"] == min(by_epoch) and np.isfinite(by_epoch).all()


def test_a_loss_that_nobody_added_is_refused(tmp_path):
    with pytest.raises(ValueError, match="loss='toy' is unknown; choose one of bce, dice, focal, bce_dice"):
        run_unet(small("unet", tmp_path, loss="toy"))


def test_a_metric_that_was_added_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "false_discoveries", lambda tp, fp, fn: fp / (tp + fp))
    run_unet(small("unet", tmp_path / "unet", epochs=1))
    found, _ = run_evaluation(small("evaluation", tmp_path / "test", model_dir=str(tmp_path / "unet" / "model")))
    assert found["false_discoveries"] == pytest.approx(1 - found["precision"])
