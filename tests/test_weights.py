"Encoders from elsewhere and for elsewhere: every tensor arrives, or a sentence says which does not."
import argparse
import bz2
import gzip
import io
import pickle
import re
import tarfile
import zipfile

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from conftest import pretrainings, small, unet_params
from safetensors.torch import load_file, save, save_file
from torch import nn
from torchvision.models import get_model, resnet18

from simseg.base.parameters import make_accelerator
from simseg.tools import predict
from simseg.learning.consistency import Consistency
from simseg.tools.command import main
from simseg.simclr import run_simclr
from simseg.study.grid import MINIATURE, Run, run_resources
from simseg.study.files import check_study
from simseg.learning.encoders import load_encoder, make_encoder, read_weights
from simseg.unet import load_model, make_unet, run_unet, save_model


@pytest.fixture(scope="module")
def theirs():
    "Somebody's ResNet-18, classifier and all, whose batch norms have seen something."
    torch.manual_seed(0)
    model = resnet18(weights=None)
    model(torch.randn(4, 3, 64, 64))
    return model


def under(start, state): return {f"{start}{key}": value for key, value in state.items()}


def zeros(state): return {key: torch.zeros_like(value) for key, value in state.items()}


def without_classifier(state): return {key: value for key, value in state.items() if not key.startswith("fc.")}


def lightly_backbone(model): return nn.Sequential(*list(model.children())[:-1]).state_dict()


HEAD = {"projector.0.weight": torch.zeros(3, 3), "queue": torch.zeros(9)}

LAYOUTS = {  # whose → what their file holds, made from a whole ResNet
    "torchvision": lambda m: m.state_dict(),
    "a whole checkpoint": lambda m: {"epoch": 3, "best": np.float64(0.9), "state_dict": m.state_dict(),
                                     "optimizer": {"state": {}, "lr": 0.1}},
    "lightly": lambda m: {"state_dict": under("backbone.", lightly_backbone(m)) | HEAD},
    "solo-learn": lambda m: {"state_dict": under("backbone.", without_classifier(m.state_dict())) | HEAD},
    "solo-learn with momentum": lambda m: {"state_dict": under("momentum_backbone.", zeros(m.state_dict()))
                                           | under("backbone.", m.state_dict())},
    "MoCo": lambda m: {"arch": "resnet18", "state_dict": under("module.encoder_k.", zeros(m.state_dict()))
                       | under("module.encoder_q.", m.state_dict()) | {"module.queue": torch.zeros(9)}},
    "MoCo v3": lambda m: {"state_dict": under("module.momentum_encoder.", zeros(m.state_dict()))
                          | under("module.base_encoder.", m.state_dict())},
    "SwAV": lambda m: under("module.", without_classifier(m.state_dict()))
            | {"module.prototypes.weight": torch.zeros(3)},
    "Barlow Twins": lambda m: {"epoch": 1,
                               "model": under("module.backbone.", without_classifier(m.state_dict())) | HEAD},
    "SimSiam": lambda m: {"state_dict": under("module.encoder.", m.state_dict()) | HEAD},
    "BYOL": lambda m: under("target_network.", zeros(m.state_dict())) | under("online_network.", m.state_dict()),
    "DINO": lambda m: {"student": under("module.backbone.", zeros(m.state_dict())),
                       "teacher": under("backbone.", m.state_dict()), "args": argparse.Namespace(arch="resnet18")},
    "compiled": lambda m: under("_orig_mod.", m.state_dict()),
    "a segmentation model's": lambda m: under("encoder.", without_classifier(m.state_dict()))
                              | {"decoder.blocks.0.conv1.0.weight": torch.zeros(3)},
    "without counters": lambda m: {k: v for k, v in m.state_dict().items() if not k.endswith("num_batches_tracked")},
}


def assert_arrived(encoder, theirs):
    for key, value in encoder.state_dict().items():
        if not key.endswith("num_batches_tracked"): assert torch.equal(value, theirs.state_dict()[key]), key


@pytest.mark.parametrize("ending", ["pth", pytest.param("ckpt", marks=pytest.mark.slow),
                                    pytest.param("pth.tar", marks=pytest.mark.slow), "safetensors"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_of_somebodys_encoder_arrives(layout, ending, theirs, tmp_path):
    saved = LAYOUTS[layout](theirs)
    if ending == "safetensors":
        if not all(isinstance(value, torch.Tensor) for value in saved.values()): pytest.skip("not flat")
        save_file({key: value.clone().contiguous() for key, value in saved.items()}, tmp_path / "theirs.safetensors")
    else: torch.save(saved, tmp_path / f"theirs.{ending}")
    encoder, _ = make_encoder("resnet18")
    load_encoder(encoder, tmp_path / f"theirs.{ending}")
    assert_arrived(encoder, theirs)


def test_timms_resnet_arrives(tmp_path):
    model = timm.create_model("resnet18", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    encoder, _ = make_encoder("resnet18")
    load_encoder(encoder, tmp_path / "timm.pth")
    assert_arrived(encoder, model)


def with_stem(state, side):
    return {**state, "conv1.weight": torch.zeros(64, 3, side, side)}


REFUSED = {  # kind → what the file holds, sentence
    "the stem of CIFAR": (lambda m: with_stem(m.state_dict(), 3),
                          r"conv1.weight, \(64, 3, 3, 3\) where \(64, 3, 7, 7\)"),
    "no statistics": (lambda m: {k: v for k, v in m.state_dict().items() if "running" not in k},
                      "40 tensors are missing, such as bn1.running_mean"),
    "another block": (lambda m: {**m.state_dict(), "layer1.0.se.fc1.weight": torch.zeros(3)},
                      "1 are unknown, such as layer1.0.se.fc1.weight"),
    "deeper": (lambda m: make_encoder("resnet50")[0].state_dict(), "set encoder_name=resnet50, which it fits"),
    "a transformer": (lambda m: {"blocks.0.attn.qkv.weight": torch.zeros(3)},
                      r"no such encoder: of its keys \(blocks.0.attn.qkv.weight, …\) none ends in conv1.weight"),
    "nothing": (lambda m: {}, "holds no tensors"),
    "an object": (lambda m: {"model": m}, "could run code and are not opened; save its state_dict alone"),
    "a whole module": (lambda m: m, r"besides weights \(torchvision.models.resnet.ResNet\), which could run code"),
    "grey images": (lambda m: {**m.state_dict(), "conv1.weight": torch.zeros(64, 1, 7, 7)},
                    r"conv1.weight, \(64, 1, 7, 7\) where \(64, 3, 7, 7\) is wanted.*three colours"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_that_do_not_fit_are_refused_with_a_key(kind, theirs, tmp_path):
    make, sentence = REFUSED[kind]
    torch.save(make(theirs), tmp_path / "theirs.pth")
    encoder, _ = make_encoder("resnet18")
    with pytest.raises(ValueError, match=sentence) as caught: load_encoder(encoder, tmp_path / "theirs.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_that_are_cut_off_are_refused(ending, theirs, tmp_path):
    path = tmp_path / f"theirs.{ending}"
    if ending == "pth": torch.save(theirs.state_dict(), path)
    else: save_file(theirs.state_dict(), path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cannot be read as weights .*copy it again"):
        load_encoder(make_encoder("resnet18")[0], path)


OTHERS = {  # what lies under the name of weights → its bytes, made from a file of torch.save; sentence
    "empty": (lambda b: b"", "is an empty file; copy it again"),
    "blank": (lambda b: b" \n\n", "is an empty file; copy it again"),
    "Git-LFS": (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n",
                "is a Git-LFS pointer .*git lfs pull"),
    "page": (lambda b: b"\xef\xbb\xbf\r\n  <!DOCTYPE html>\n<html>Sign in</html>",
             "is a web page .*download the file itself"),
    "XML": (lambda b: b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page .*download the file itself"),
    "text": (lambda b: b"404: Not Found\n", "is a text file .'404: Not Found'.; download the file again"),
    "JSON": (lambda b: b'{"error": "not found"}', "is a text file"),
    "gzip": (lambda b: gzip.compress(b[:1000]), r"is an archive \(gzip, bzip2 or xz\); unpack it"),
    "bzip2": (lambda b: bz2.compress(b[:1000]), r"is an archive \(gzip, bzip2 or xz\); unpack it"),
    "tar": (lambda b: archived(b[:1000]), "is a tar archive; unpack it"),
    "zip": (lambda b: zipped(b[:1000]), "is a zip archive of other files; unpack it"),
    "an image": (lambda b: b"\x89PNG\r\n\x1a\n" + bytes(99), "is no file of weights"),
    "zeros": (lambda b: bytes(9999), "is no file of weights"),
    "half a pickle": (lambda b: b"\x80\x02garbage", "cannot be read as weights .*copy it again"),
    "cut at its end": (lambda b: b[:-50], "cannot be read as weights .*copy it again"),
    "cut at its beginning": (lambda b: b[:90], "cannot be read as weights .*copy it again"),
    "header of safetensors": (lambda b: save({"conv1.weight": torch.zeros(9)})[:40],
                              "cannot be read as weights .*copy"),
    "safetensors without end": (lambda b: save({"conv1.weight": torch.zeros(9)})[:-4],
                                "cannot be read as weights .*copy"),
}


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive: archive.writestr("weights.pth", content)
    return file.getvalue()


def archived(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive: archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


@pytest.mark.parametrize("ending", ["pth", "safetensors", "bin"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_of_weights_is_named(kind, ending, tmp_path):
    "For what it is, whatever its name; that it could run code is said of none of them."
    make, sentence = OTHERS[kind]
    torch.save({"conv1.weight": torch.zeros(99)}, tmp_path / "ours.pth")
    path = tmp_path / f"theirs.{ending}"
    path.write_bytes(make((tmp_path / "ours.pth").read_bytes()))
    with pytest.raises(ValueError, match=f"theirs.{ending} {sentence}") as caught: read_weights(path)
    assert "\n" not in str(caught.value) and "code" not in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "Git-LFS", "page", "cut at its end"])
def test_a_model_whose_weights_are_none_is_named(kind, tmp_path):
    make, sentence = OTHERS[kind]
    save_model(make_unet("scratch", "resnet18"), tmp_path / "model", {"image_size": 64})
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(make(path.read_bytes()))
    with pytest.raises(ValueError, match=f"model.safetensors {sentence}"): load_model(tmp_path / "model")


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pretrained encoder at .*; give the folder"):
        run_unet(small("unet", tmp_path / "out", encoder=str(tmp_path)))


@pytest.mark.parametrize("ending, content", [("bin", "safetensors"), ("pth", "safetensors"), ("safetensors", "pth")])
def test_the_content_counts_not_the_ending(ending, content, theirs, tmp_path):
    path = tmp_path / f"theirs.{ending}"
    if content == "pth": torch.save(theirs.state_dict(), path)
    else: path.write_bytes(save(theirs.state_dict()))
    encoder, _ = make_encoder("resnet18")
    load_encoder(encoder, path)
    assert_arrived(encoder, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_length_arrive(dtype, theirs, tmp_path):
    saved = {key: value.to(dtype) if value.is_floating_point() else value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": saved}, tmp_path / "theirs.pth")
    encoder, _ = make_encoder("resnet18")
    load_encoder(encoder, tmp_path / "theirs.pth")
    assert all(torch.equal(value, saved[key].to(value.dtype)) for key, value in encoder.state_dict().items())


def changed(key, change): return lambda state: {**state, key: change(state[key].clone())}


def set_one(tensor, value):
    tensor.view(-1)[3] = value
    return tensor


UNTRAINED = {  # what is wrong with a state_dict → how it comes about, sentence
    "int8": (lambda s: {k: v.to(torch.int8) for k, v in s.items()}, r"(conv1|bn1)\.\w+ is of type int8.*quantised"),
    "one tensor of uint8": (changed("layer4.1.conv2.weight", torch.Tensor.byte),
                            "layer4.1.conv2.weight is of type uint8"),
    "float8": (changed("conv1.weight", lambda t: t.to(torch.float8_e4m3fn)), "conv1.weight is of type float8_e4m3fn"),
    "NaN": (changed("layer2.0.conv1.weight", lambda t: set_one(t, float("nan"))), "layer2.0.conv1.weight .*not finite"),
    "-inf": (changed("bn1.bias", lambda t: set_one(t, float("-inf"))), "bn1.bias .*not finite"),
    "infinite variance": (changed("bn1.running_var", lambda t: set_one(t, float("inf"))),
                          "bn1.running_var .*not finite"),
    "beyond float32": (changed("conv1.weight", lambda t: set_one(t.double(), 1e300)), "conv1.weight .*not finite"),
    "negative variance": (changed("bn1.running_var", lambda t: set_one(t, -1e-3)),
                          "bn1.running_var has negative variances"),
    "no variance": (lambda s: {k: v * 0 if k.endswith("running_var") else v for k, v in s.items()},
                    "bn1.running_var and all other variances are zero"),
    "zeros": (zeros, "conv1.weight is 0 throughout"),
    "ones": (lambda s: {k: torch.ones_like(v) for k, v in s.items()}, "conv1.weight is 1 throughout"),
    "a part of zeros": (lambda s: {k: v * 0 if k.startswith("layer4") else v for k, v in s.items()},
                        "layer4.0.conv1.weight is 0 throughout"),
}


@pytest.mark.parametrize("kind", UNTRAINED)
def test_weights_that_no_training_leaves_are_refused_by_encoder_and_model(kind, theirs, tmp_path):
    make, sentence = UNTRAINED[kind]
    torch.save(make(without_classifier(theirs.state_dict())), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=f"theirs.pth holds no trained weights: {sentence}") as caught:
        load_encoder(make_encoder("resnet18")[0], tmp_path / "theirs.pth")
    assert "\n" not in str(caught.value)
    save_model(make_unet("scratch", "resnet18"), tmp_path / "model", {"image_size": 64})
    model = load_file(tmp_path / "model" / "model.safetensors")
    encoder = {key.removeprefix("encoder."): value for key, value in model.items() if key.startswith("encoder.")}
    save_file(model | under("encoder.", make(encoder)), tmp_path / "model" / "model.safetensors")
    if kind == "no variance": return  # the decoder has its own
    with pytest.raises(ValueError, match=f"holds no trained weights: encoder.{sentence}"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("layout, taken, left", [
    ("DINO", "teacher.backbone", "student.module.backbone"), ("MoCo", "module.encoder_q", "module.encoder_k"),
    ("solo-learn with momentum", "backbone", "momentum_backbone"), ("BYOL", "online_network", "target_network")])
def test_of_two_encoders_it_is_said_which_one_was_taken(layout, taken, left, theirs, tmp_path, capsys):
    torch.save(LAYOUTS[layout](theirs), tmp_path / "theirs.pth")
    load_encoder(make_encoder("resnet18")[0], tmp_path / "theirs.pth")
    said = capsys.readouterr().out
    assert re.search(rf"^Note: .*theirs.pth holds several encoders; (\w+\.)*{taken} was taken, not (\w+\.)*{left}\.$",
                     said)
    torch.save(theirs.state_dict(), tmp_path / "one.pth")
    load_encoder(make_encoder("resnet18")[0], tmp_path / "one.pth")
    assert not capsys.readouterr().out


class Trap:
    "What a pickle can do when it is opened."

    def __init__(self, path): self.path = path

    def __reduce__(self): return open, (str(self.path), "w")


def test_nothing_that_is_opened_runs(tmp_path):
    (tmp_path / "theirs.pth").write_bytes(pickle.dumps({"conv1.weight": Trap(tmp_path / "ran")}, protocol=2))
    encoder, _ = make_encoder("resnet18")
    with pytest.raises(ValueError, match="theirs.pth"): load_encoder(encoder, tmp_path / "theirs.pth")
    assert not (tmp_path / "ran").exists()


# Any encoder of smp

@pytest.mark.parametrize("name", ["tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite0", "mobilenet_v2", "mit_b0",
                                  "tu-convnext_atto"])
def test_any_encoder_goes_from_pretraining_to_the_unet_and_back(name, tmp_path):
    run_simclr(small("simclr", tmp_path / "simclr", encoder_name=name, epochs=1, val_fraction=0.0, learning_rate=0.01))
    learnt = load_file(tmp_path / "simclr" / "encoder.safetensors")
    run_unet(small("unet", tmp_path / "unet", encoder_name=name, encoder=str(tmp_path / "simclr"), epochs=0))
    model = load_file(tmp_path / "unet" / "model" / "model.safetensors")
    assert {key for key in model if key.startswith("encoder.")} == {f"encoder.{key}" for key in learnt}
    assert all(torch.equal(model[f"encoder.{key}"], value) for key, value in learnt.items())
    back, features = make_encoder(name)
    load_encoder(back, tmp_path / "unet" / "model")
    assert all(torch.equal(value, learnt[key]) for key, value in back.state_dict().items())
    assert back(torch.zeros(2, 3, 64, 64)).shape == (2, features)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
def test_timms_own_file_fits_smps_encoder_of_timm(name, tmp_path):
    "Whatever smp makes of the names, and with a classifier that it has not."
    model = timm.create_model(name, pretrained=False)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    encoder, _ = make_encoder(f"tu-{name}")
    load_encoder(encoder, tmp_path / "timm.pth")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.eval()(x), model.eval().forward_intermediates(x)[1][-1].mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_is_torchvisions_from_the_same_seed(name):
    "So that recorded studies, whose encoders torchvision drew, can be repeated."
    torch.manual_seed(7)
    theirs = get_model(name, weights=None)
    after = torch.rand(1)
    torch.manual_seed(7)
    encoder, _ = make_encoder(name)
    assert torch.equal(torch.rand(1), after)
    theirs.fc = nn.Identity()
    assert list(encoder.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in theirs.state_dict().items())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(encoder(x), theirs(x))


@pytest.mark.parametrize("name, near", [("resnet17", "resnet18"), ("efficientnet_b0", "efficientnet-b0"),
                                        ("tu-tf_efficientnet_lite_0", "tu-tf_efficientnet_lite0"), ("", "vgg"),
                                        ("tu-vit_base_patch16_224", "U-Net"), ("tu-", "tu-")])
def test_a_name_that_smp_does_not_know_is_refused_by_both_stages(name, near, tmp_path):
    for run, stage in ((run_simclr, "simclr"), (run_unet, "unet")):
        with pytest.raises(ValueError, match=f"encoder_name='{re.escape(name)}' .*{near}") as caught:
            run(small(stage, tmp_path, encoder_name=name))
        assert "\n" not in str(caught.value)


def test_a_study_of_another_encoder_knows_what_its_runs_take():
    "As much as the largest that was measured."
    study = check_study({**MINIATURE, "encoder_name": "tu-tf_efficientnet_lite0"})
    largest = check_study({**MINIATURE, "encoder_name": "resnet152"})
    asked = [run_resources(Run(each, "unet", "scratch", ratio=0.8)) for each in (study, largest)]
    assert asked[0] == asked[1]


def test_consistency_leaves_the_statistics_of_timms_batch_norm_alone():
    model = make_unet("scratch", "tu-tf_efficientnet_lite0").train()
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    params = {"consistency": 1.0, "seed": 0}
    Consistency(model, images, torch.arange(2), 4, params, make_accelerator("cpu", "fp32")).loss(model, 2, step=0)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    model(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(model.state_dict()[key], value) for key, value in before.items())


# Where they begin

def test_simclr_and_the_unet_begin_with_somebodys_weights(theirs, tmp_path):
    torch.save(LAYOUTS["MoCo"](theirs), tmp_path / "moco.pth.tar")
    run_simclr(small("simclr", tmp_path / "simclr", start=str(tmp_path / "moco.pth.tar"), epochs=0))
    ours = load_file(tmp_path / "simclr" / "encoder.safetensors")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.items())
    run_unet(small("unet", tmp_path / "unet", encoder=str(tmp_path / "moco.pth.tar"), epochs=0))
    model = load_file(tmp_path / "unet" / "model" / "model.safetensors")
    assert all(torch.equal(model[f"encoder.{key}"], value) for key, value in ours.items())


def test_a_run_that_began_with_other_weights_is_another_run(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    params = small("simclr", tmp_path / "simclr", start=str(tmp_path / "theirs.pth"), epochs=0)
    run_simclr(params)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="holds another run .encoder"): run_simclr(params)


def test_somebodys_encoder_is_an_arm_of_a_study(theirs, tmp_path):
    path = str(tmp_path / "theirs.pth")
    encoders = {"scratch": None, "theirs": {"encoder": path}, "on_top": {"start": path, "dataset": "synthetic"}}
    asked = {**MINIATURE, "encoders": encoders, "recipes": {}}
    with pytest.raises(FileNotFoundError, match="no pretrained encoder at .*theirs.pth"):
        check_study(asked, starting=True)
    torch.save(theirs.state_dict(), path)
    study = check_study(asked)
    assert unet_params(study, "theirs", 0.8, 0)["encoder"] == path
    assert {encoder for encoder, _ in pretrainings(study)} == {"on_top"}


# And out again

def test_others_load_our_encoder_with_their_own_calls(tmp_path):
    run_simclr(small("simclr", tmp_path, epochs=1))
    path = tmp_path / "encoder.safetensors"
    ours = load_file(path)
    torchvisions = resnet18(weights=None)
    torchvisions.fc = nn.Identity()
    torchvisions.load_state_dict(ours)
    timms = timm.create_model("resnet18", pretrained=False, num_classes=0, checkpoint_path=str(path))
    smps = smp.encoders.get_encoder("resnet18", weights=None)
    smps.load_state_dict(ours)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): found = [torchvisions.eval()(x), timms.eval()(x), smps.eval()(x)[-1].mean((2, 3))]
    for features in found: assert torch.allclose(features, found[0], atol=1e-5)


def test_a_model_leaves_as_onnx(tmp_path, capsys):
    torch.manual_seed(0)
    save_model(make_unet("scratch", "resnet18"), tmp_path / "model", {"image_size": 64})
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "model.onnx")])
    assert ended.value.code == 0, capsys.readouterr()
    from onnxruntime import InferenceSession

    session = InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"pixels": torch.zeros(5, 3, 64, 64).numpy()})
    assert found.shape == (5, 1, 64, 64) and (0 <= found).all() and (found <= 1).all()


def test_an_export_that_is_wrong_is_said(tmp_path, monkeypatch):
    save_model(make_unet("scratch", "resnet18"), tmp_path / "model", {"image_size": 64})
    monkeypatch.setattr(predict, "_onnx_difference", lambda path, model, pixels: 0.2)
    with pytest.raises(ValueError, match="other probabilities than PyTorch, by 0.200; do not use it"):
        predict.export_onnx(tmp_path / "model", tmp_path / "model.onnx")
    monkeypatch.setattr(predict, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="takes onnx, onnxscript, onnxruntime: pip install"):
        predict.export_onnx(tmp_path / "model", tmp_path / "model.onnx")
