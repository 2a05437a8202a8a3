"The command `simseg predict`, as a user starts it."
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import BIN, small
from PIL import Image

from simseg.base.files import write_csv, write_json, write_yaml
from simseg.base.parameters import make_accelerator
from simseg.tools.command import main
from simseg.tools.predict import predict, predict_files
from simseg.study.grid import Run
from simseg.study.files import check_study, note_origin
from simseg.images.synthetic import make_synthetic
from simseg.unet import load_model, predict_batches, run_unet

TURNED = 6  # EXIF orientation: the camera was held upright, the pixels lie on their side


def as_pictures(images): return [Image.fromarray(image.transpose(1, 2, 0)) for image in images]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A model's folder alone, moved away from its run."
    folder = tmp_path_factory.mktemp("trained")
    run_unet(small("unet", folder / "run", epochs=1))
    return shutil.move(folder / "run" / "model", folder / "model")


@pytest.fixture
def photos(tmp_path):
    "A folder as people have them: sizes, modes and endings mixed, one picture turned by EXIF, another file among them."
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    first, second, third, fourth = as_pictures(make_synthetic(4, 90).images)
    exif = Image.Exif()
    exif[0x0112] = TURNED
    first.resize((150, 90)).save(folder / "turned.JPG", exif=exif)
    second.convert("L").resize((31, 77)).save(folder / "trip" / "grey.png")
    third.convert("RGBA").save(folder / "trip" / "with.dots.webp")
    fourth.convert("P").resize((640, 480)).save(folder / "palette.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def simseg(folder, *arguments):
    "The command, in a folder."
    command = [BIN / "simseg", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def test_a_folder_of_photos(model, photos, tmp_path):
    "Paths count from the working directory; each mask has its image's size, upright."
    place = os.path.relpath(model, tmp_path)
    run = simseg(tmp_path, "predict", "photos", "--model", place, "--out", "masks", "--batch-size", 3)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "4 mask(s) written to masks" in run.stdout
    out = tmp_path / "masks"
    sizes = {
        "turned.png": (90, 150), "trip/grey.png": (31, 77), "trip/with.dots.png": (90, 90), "palette.png": (640, 480),
    }
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == set(sizes)
    for name, size in sizes.items():
        mask = Image.open(out / name)
        assert mask.size == size
        assert set(np.unique(mask)) <= {0, 255}
        assert Image.open((out / name).with_suffix(".overlay.jpg")).size == size


def test_one_unreadable_image_is_named_and_the_rest_predicted(model, photos, tmp_path):
    (photos / "trip" / "torn.jpg").write_bytes((photos / "turned.JPG").read_bytes()[:400])
    arguments = [photos, photos / "turned.JPG", "--model", model, "--out", "masks", "--no-overlay"]
    run = simseg(tmp_path, "predict", *arguments)
    assert run.returncode == 1
    assert "torn.jpg cannot be read as an image" in run.stderr
    assert "Traceback" not in run.stderr
    assert len(list((tmp_path / "masks").rglob("*.*"))) == 4


def test_a_folder_without_a_model_ends_in_one_sentence(photos, tmp_path):
    run = simseg(tmp_path, "predict", "photos", "--model", "nothing", "--out", "masks")
    assert run.returncode == 2
    place = re.escape(f"{tmp_path}/nothing")
    assert re.fullmatch(rf"simseg: There is no model in {place} .*that 3_unet wrote\.\n", run.stderr)


@pytest.mark.parametrize("images, out, message", [
    ("none.jpg", "masks", "no image or folder .*none.jpg"),
    ("empty", "masks", "holds no images"),
    ("photos", "masks", "turned.(JPG|bmp) and .*turned.(JPG|bmp) would both write"),
    ("photos/trip", "photos/trip/masks", "would come among the images of .*trip;"),
    ("photos/trip/grey.png", "photos/trip", "would come among the images of .*grey.png"),
])
def test_images_that_cannot_be_predicted_there_are_named(images, out, message, model, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(photos / "palette.bmp", photos / "turned.bmp")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict_files([tmp_path / images], model, tmp_path / out)
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("bad, message", [
    ({"threshold": 0.0}, "threshold=0.0 is out of range"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"image_size": 50}, "multiple of 32"),
    ({"device": "gpu"}, "choose one of auto"),
])
def test_bad_options_are_named(bad, message, model):
    with pytest.raises(ValueError, match=message): list(predict([Image.new("RGB", (9, 9))], model, **bad))


def test_a_prediction_is_what_evaluation_counts(model):
    "At the model's own size; so what 4_evaluation reports holds for `simseg predict`."
    images = make_synthetic(6, 32).images
    network, _ = load_model(model)
    accelerator = make_accelerator("cpu", "fp32")
    ((_, logits),) = predict_batches(network, torch.from_numpy(images), torch.arange(6), accelerator)
    found = predict(as_pictures(images), model, device="cpu", precision="fp32")
    for i, prediction in enumerate(found):
        np.testing.assert_allclose(prediction.probability, logits[i, 0].sigmoid().numpy(), atol=1e-5)


def test_a_model_of_smps_own(tmp_path):
    "Any folder of `save_pretrained` will do, once the image size is said, and what several channels mean."
    smp.Unet("resnet18", encoder_weights=None, classes=1, activation="sigmoid").save_pretrained(tmp_path / "smp")
    config = tmp_path / "smp" / "config.json"
    text = config.read_text()
    assert '"encoder_weights": null' in text
    config.write_text(text.replace('"encoder_weights": null', '"encoder_weights": "imagenet"'))  # are not downloaded
    photo = Image.new("RGB", (50, 40))
    with pytest.raises(ValueError, match="has no preprocessing.json, so say with image_size"):
        next(predict([photo], tmp_path / "smp"))
    found = next(predict([photo], tmp_path / "smp", image_size=64, precision="fp32"))
    assert found.mask.shape == (40, 50)
    assert 0 < found.probability.min()
    assert found.probability.max() < 1
    smp.Unet("resnet18", encoder_weights=None, classes=3).save_pretrained(tmp_path / "three")
    with pytest.raises(ValueError, match="has 3 channels, which its preprocessing.json does not name"):
        next(predict([photo], tmp_path / "three", image_size=64))
    write_json(tmp_path / "three" / "preprocessing.json", {"classes": "cat=1 dog=2", "image_size": 64})
    found = next(predict([photo], tmp_path / "three"))
    assert found.probability.shape == (3, 40, 50) and set(np.unique(found.mask)) <= {0, 1, 2}


def test_the_best_model_of_a_study_is_taken(workplace, model, photos, capsys):
    "By validation images, among the cells that count; of several studies one has to be named."
    def predicts(*arguments) -> tuple[int, str]:  # exit code, and what was said
        with pytest.raises(SystemExit) as ended: main([str(argument) for argument in ("predict", photos, *arguments)])
        return ended.value.code, "".join(capsys.readouterr())

    def study_with(name, ious):
        study = check_study({"name": name, "image_size": 32, "label_ratios": [0.5], "seeds": list(range(len(ious))),
                             "encoders": {"scratch": None}, "unet": {"dataset": "synthetic", "max_images": 64}})
        note_origin(study, f"{name}.yaml")
        for seed, iou in enumerate(ious):
            evaluation = Run(study, "evaluation", "scratch", ratio=0.5, seed=seed)
            for run in evaluation.chain:
                ran_on = {"images": "sheep", "precision": "fp32"}
                write_yaml(run.folder / "params.yaml", {**run.params, "ran_on": ran_on})
                write_json(run.folder / "state.json", {"state": "done"})
                write_json(run.folder / "metrics.json", {"val_iou": iou, "iou": 1 - iou})
            write_csv(evaluation.folder / "per_image.csv", [{"id": "a", "tp": 1, "fp": 0, "fn": 0, "tn": 0}])
            shutil.copytree(model, evaluation.at("unet").folder / "model")

    code, said = predicts()
    assert code == 2 and "there is none yet: `make demo` trains some" in said
    code, said = predicts("--study", "first")
    assert code == 2 and "The study first has no model; there is none yet" in said
    study_with("first", [0.3, 0.9, 0.5])
    code, said = predicts()
    assert code == 0, said
    assert "outputs/first/unet/scratch/ratio0.5/seed1/model" in said
    shown = re.search(r"To look at: (.*overlay.jpg)", said)[1]
    assert Image.open(shown).size
    study_with("second", [0.4])
    code, said = predicts()
    assert code == 2 and "first (" in said and "second (" in said
    code, said = predicts("--study", "second", "--overwrite")
    assert code == 0 and "outputs/second/" in said
    code, said = predicts("--model", "outputs/nothing")
    assert code == 2 and "There is no model in" in said and "first (" in said
