"Files that simseg reads again and that were cut off, emptied or changed since: named, and never worked with."
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import small

from simseg.base.files import read_csv, read_json, write_json, write_yaml
from simseg.base.parameters import generator_for
from simseg.images.sets import load_pairs
from simseg.images.data import read_known
from simseg.evaluation import run_evaluation
from simseg.base.run import Checkpoint, RunFolder, read_state
from simseg.simclr import run_simclr
from simseg.study.files import begun_study, check_not_taken, check_study, note_origin
from simseg.images.synthetic import make_synthetic
from simseg.unet import load_model, run_unet


def flip(content: bytes) -> bytes:
    "Change the lowest bit of a byte in the middle."
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


DAMAGES = {  # kind → what becomes of a file's content; None removes the file
    "empty": lambda content: b"",
    "cut": lambda content: content[:len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "another type": lambda content: b"[1, 2]",
    "flipped": flip,
    "missing": None,
}
BUT_MISSING = [kind for kind in DAMAGES if kind != "missing"]


def damage(path, kind: str):
    content = path.read_bytes()
    if kind == "missing": path.unlink()
    else: path.write_bytes(DAMAGES[kind](content))


# Readers

@pytest.mark.parametrize("read", [read_json, lambda path: read_csv(path, "epoch")])
@pytest.mark.parametrize("content", [b"", bytes(80), b"[1, 2]", b"\xff\xfe", b'"text"'])
def test_a_reader_names_the_file_and_what_to_do(read, content, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"file cannot be read \(.*\); delete it, and run the same command again\.$"):
        read(file)


# The state of a training

def test_no_bit_of_a_state_changes_unnoticed(tmp_path):
    "Wherever it is: the change is noticed, or it lies in what nobody reads."
    whole = Checkpoint(tmp_path / "checkpoint.pt")
    whole.resume(model=torch.nn.Linear(40, 3), order=generator_for(0, "order"))
    whole.save({"epoch": 1, "loss": 0.5})
    content = whole.path.read_bytes()
    whole.check()
    wanted = torch.load(whole.path, weights_only=True)
    rng = random.Random(0)
    noticed = 0
    for _ in range(400):
        place = rng.randrange(len(content))
        whole.path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1:])
        try: whole.check()
        except ValueError as error:
            assert f"{whole.path} cannot be read" in str(error)
            noticed += 1
            continue
        found = torch.load(whole.path, weights_only=True)
        assert found["history"] == wanted["history"]
        assert torch.equal(found["random"], wanted["random"])
        for name, value in wanted["parts"]["model"].items(): assert torch.equal(found["parts"]["model"][name], value)
    assert noticed > 200


@pytest.fixture(scope="module")
def stopped_unet(tmp_path_factory):
    "A fine-tuning stopped after one of its two epochs, and what it would have ended with."
    folder = tmp_path_factory.mktemp("unet")
    run_unet(small("unet", folder / "whole", epochs=2))
    run_unet(small("unet", folder / "stopped", epochs=2, stop_after=1))
    return folder


@pytest.mark.parametrize("kind", [kind if kind in ("cut", "flipped") else pytest.param(kind, marks=pytest.mark.slow)
                                  for kind in BUT_MISSING])
def test_a_run_whose_state_is_damaged_says_so_and_begins_anew(kind, stopped_unet, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(stopped_unet / "stopped", out)
    damage(out / "checkpoint.pt", kind)
    history = run_unet(small("unet", out, epochs=2))
    said = capsys.readouterr().out
    assert f"{out}/checkpoint.pt cannot be read (" in said and "; this run begins anew." in said
    assert "epoch 1/2" in said and len(history) == 2
    for name in ("model/model.safetensors", "metrics.json"):
        assert (out / name).read_bytes() == (stopped_unet / "whole" / name).read_bytes(), name


# A finished run

def toy_run(folder) -> RunFolder:
    "A run that leaves a file of each kind, without training."
    params = {"epochs": 2, "seed": 0, "device": "cpu", "precision": "fp32", "overwrite": False, "stop_after": 0}
    with RunFolder("unet", {**params, "out_dir": str(folder)}) as run:
        run.claim(images="sheep")
        if run.finished: return run
        run.fit({"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2))
        for name in ("encoder.safetensors", "learnt_from.safetensors", "per_image.csv", "model/model.safetensors"):
            (run.folder / name).parent.mkdir(exist_ok=True)
            (run.folder / name).write_bytes(name.encode() * 20)
        run.finish({"n_train": 9, "val_iou": 0.5})
    return run


READ_AGAIN = ["metrics.json", "history.csv", "per_image.csv", "encoder.safetensors", "learnt_from.safetensors",
              "model/model.safetensors"]


@pytest.mark.parametrize("name", READ_AGAIN)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_finished_run_that_was_damaged_is_not_finished(kind, name, tmp_path, capsys):
    toy_run(tmp_path)
    whole = (tmp_path / name).read_bytes()
    damage(tmp_path / name, kind)
    assert not toy_run(tmp_path).finished
    said = capsys.readouterr().out
    if (kind, name) != ("missing", "metrics.json"):
        assert "this run begins anew" in said and str(tmp_path / name) in said
    assert (tmp_path / name).read_bytes() == whole
    assert toy_run(tmp_path).finished and read_state(tmp_path)["state"] == "done"


@pytest.mark.parametrize("kind", BUT_MISSING)
def test_a_finished_run_whose_state_is_damaged_writes_it_anew(kind, tmp_path):
    "What it has learnt is kept; until then nobody says that it is finished."
    toy_run(tmp_path)
    damage(tmp_path / "state.json", kind)
    if kind != "flipped":  # whichever word that changed
        assert read_state(tmp_path)["state"] == "failed"
        assert f"{tmp_path}/state.json cannot be read" in read_state(tmp_path)["sentence"]
    before = (tmp_path / "encoder.safetensors").stat().st_mtime_ns
    toy_run(tmp_path)
    assert toy_run(tmp_path).finished and read_state(tmp_path)["state"] == "done"
    if kind != "flipped": assert (tmp_path / "encoder.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("metrics", [b"", b"[]", b"\0" * 30])
def test_metrics_that_are_no_json_are_no_end(metrics, tmp_path, capsys):
    "Of a run that was killed between its last two words, so that nothing else says what they were."
    toy_run(tmp_path)
    write_json(tmp_path / "state.json", {"state": "running", "stage": "unet"})
    (tmp_path / "metrics.json").write_bytes(metrics)
    assert not toy_run(tmp_path).finished
    assert "metrics.json cannot be read (" in capsys.readouterr().out


@pytest.mark.parametrize("kind", BUT_MISSING)
def test_a_run_that_cannot_be_known_any_more_is_not_replaced(kind, tmp_path):
    toy_run(tmp_path)
    damage(tmp_path / "params.yaml", kind)
    with pytest.raises(ValueError, match="holds another run .*overwrite=True to replace it"): toy_run(tmp_path)
    assert (tmp_path / "encoder.safetensors").exists()


# What another run begins with

@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_encoder_is_named(kind, tmp_path):
    run_simclr(small("simclr", tmp_path / "simclr", epochs=0))
    damage(tmp_path / "simclr" / "encoder.safetensors", kind)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{tmp_path}/simclr"):
        run_unet(small("unet", tmp_path / "unet", epochs=0, encoder=str(tmp_path / "simclr")))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    run_unet(small("unet", folder, epochs=0))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "learnt_from.safetensors", "config.json", "preprocessing.json"])
@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "another type", "missing"])
def test_a_damaged_model_is_named(kind, name, untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "unet")
    damage(tmp_path / "unet" / "model" / name, kind)
    params = small("evaluation", tmp_path / "test", model_dir=str(tmp_path / "unet" / "model"))
    with pytest.raises((ValueError, FileNotFoundError), match=f"{tmp_path}/unet/model.*{name}"): run_evaluation(params)


def test_flipped_weights_are_noticed_but_a_name_may_be_added(untrained, tmp_path):
    "As `load_model` itself asks for, where a model has several classes."
    shutil.copytree(untrained, tmp_path / "unet")
    preprocessing = tmp_path / "unet" / "model" / "preprocessing.json"
    write_json(preprocessing, {**read_json(preprocessing), "note": "mine"})
    load_model(tmp_path / "unet" / "model")
    damage(tmp_path / "unet" / "model" / "model.safetensors", "flipped")
    with pytest.raises(ValueError, match="model.safetensors is not what was written: cut off, or changed; delete"):
        load_model(tmp_path / "unet" / "model")


@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "another type"])
def test_damaged_images_known_beside_a_copied_model_are_named(kind, untrained, tmp_path):
    shutil.copy(untrained / "model" / "learnt_from.safetensors", tmp_path)
    damage(tmp_path / "learnt_from.safetensors", kind)
    with pytest.raises(ValueError, match="learnt_from.safetensors cannot be read .*; copy its folder again"):
        read_known(tmp_path / "learnt_from.safetensors")


# Decoded images

@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "thumbnails.npy", "meta.json", "sums.json"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_set_in_the_cache_is_decoded_anew(kind, name, tmp_path, monkeypatch, capsys):
    from PIL import Image

    for part in ("images", "masks"): (tmp_path / part).mkdir()
    drawn = make_synthetic(12, 32)
    for i, image in enumerate(drawn.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray((drawn.masks[i] == 1).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{i}.png")
    monkeypatch.setenv("SIMSEG_CACHE", str(tmp_path / "cache"))
    before = load_pairs(str(tmp_path), 32)
    wanted = [before.images.copy(), before.masks.copy(), before.thumbnails.copy(), before.ids]
    cached, = (tmp_path / "cache").glob("[!.]*px-*")
    damage(cached / name, kind)
    after = load_pairs(str(tmp_path), 32)
    for array, value in zip([after.images, after.masks, after.thumbnails, after.ids], wanted):
        assert np.array_equal(array, value)
    assert "the images are decoded anew" in capsys.readouterr().out
    load_pairs(str(tmp_path), 32)
    assert "decoded" not in capsys.readouterr().out


# A study

@pytest.mark.parametrize("name", ["study.yaml", "origin.json"])
@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "another type"])
def test_a_damaged_study_is_named(kind, name, workplace):
    study = {"name": "mine", "label_ratios": [0.5], "seeds": [0], "encoders": {"scratch": None}}
    write_yaml(workplace / "mine.yaml", study)
    study = check_study(study)
    note_origin(study, "mine.yaml")
    damage(workplace / "outputs" / "mine" / name, kind)
    with pytest.raises(ValueError, match=f"outputs/mine/{name} .*"):
        if name == "study.yaml": begun_study("mine.yaml")
        check_not_taken({**study, "seeds": [1]}, "other.yaml")
