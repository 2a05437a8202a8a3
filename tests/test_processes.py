"One pretraining by several processes: what it learns is what one would learn, and it ends when it should."
import json
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from conftest import small
from safetensors.torch import load_file

import simseg.simclr
from simseg.core import generator_for
from simseg.run import read_state
from simseg.simclr import SimCLR, nt_xent, run_simclr, share_batch_norm
from simseg.synthetic import draw_synthetic

# what is written at first, and trains: each process's own projections carry gradients, those of the others none
WITHOUT_GRADIENTS = """
import torch
import torch.distributed as dist
import simseg.simclr

def gather_views(z):
    parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, z.detach().contiguous())
    parts[dist.get_rank()] = z
    return torch.cat(parts)

simseg.simclr.gather_views = gather_views
"""


# A step: its loss and its gradients

def step(images, rank: int, processes: int, encoder_name: str = "resnet18", dtype=torch.float32) -> dict:
    "Loss and gradients of a step of this process's part of a batch."
    torch.manual_seed(0)
    model = share_batch_norm(SimCLR(encoder_name, 32, 16), torch.device("cpu")).to(dtype)
    whole = model if processes == 1 else torch.nn.parallel.DistributedDataParallel(model)
    generator = generator_for(0, "views")
    own = images.chunk(processes)[rank]
    both = simseg.simclr.two_views(own, generator, share=(rank, processes))
    first, second = whole(both.to(dtype)).chunk(2)
    loss = nt_xent(simseg.simclr.gather_views(first), simseg.simclr.gather_views(second))
    loss.backward()
    statistics = {f"buffer {name}": value for name, value in model.named_buffers() if "running" in name}
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), **statistics, **gradients}


def exact_step(images, rank: int, processes: int, encoder_name: str) -> dict:
    "In float64, where only what differs in kind is left."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32))
        return step(images, rank, processes, encoder_name, torch.float64)


def one_of_two(rank: int, folder: str, broken: bool, encoder_name: str):
    "What each of two processes does."
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    if broken: exec(WITHOUT_GRADIENTS, {})
    images = torch.from_numpy(draw_synthetic(8, 64).images)
    found = exact_step(images, rank, 2, encoder_name) if encoder_name else step(images, rank, 2)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def of_two(folder, broken: bool = False, encoder_name: str = "") -> dict:
    torch.multiprocessing.spawn(one_of_two, (str(folder), broken, encoder_name), nprocs=2)
    first, second = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in first.items(): assert torch.equal(value, second[name]), name
    return first


def far(found: dict, wanted: dict) -> float:
    "How far gradients are apart at most, each against its own length."
    names = [name for name in wanted if name != "loss" and not name.startswith("buffer")]
    return max(((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in names)


def test_two_processes_of_four_images_are_one_of_eight(tmp_path):
    "Loss, gradients and running statistics; without gradients through the gather they are others."
    alone = step(torch.from_numpy(draw_synthetic(8, 64).images), 0, 1)
    two = of_two(tmp_path)
    assert two["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-5)
    assert far(two, alone) < 0.01
    for name, value in alone.items():
        if name.startswith("buffer"): torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    (tmp_path / "broken").mkdir()
    broken = of_two(tmp_path / "broken", broken=True)
    assert broken["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-5)  # which is why nobody notices
    assert far(broken, alone) > 0.2


@pytest.mark.parametrize("name", ["timm-tf_efficientnet_lite0", "timm-skresnet18"])
def test_batch_norm_that_ends_in_an_activation_is_shared_too(name, tmp_path):
    "The first has stochastic depth and layers that no feature map passes through, the second two kinds of batch norm."
    alone = exact_step(torch.from_numpy(draw_synthetic(8, 64).images), 0, 1, name)
    two = of_two(tmp_path, encoder_name=name)
    assert two.keys() == alone.keys()
    for key, value in alone.items(): torch.testing.assert_close(two[key], value, rtol=1e-7, atol=1e-9, msg=key)


# Twenty steps

TWENTY = {"max_images": 178, "batch_size": 8, "image_size": 64, "epochs": 1, "warmup_epochs": 0, "learning_rate": 0.003,
          "precision": "fp32"}


def weights_after(out_dir, **changed) -> torch.Tensor:
    "All weights of an encoder, in one vector."
    run_simclr(small("simclr", out_dir, **{**TWENTY, **changed}))
    saved = load_file(out_dir / "encoder.safetensors")
    return torch.cat([value.flatten() for name, value in saved.items() if name.endswith(("weight", "bias"))])


def test_twenty_steps_of_two_processes_end_where_one_does(tmp_path, monkeypatch):
    "Weights of the same file, by how far they moved; without gradients through the gather they end elsewhere."
    start = weights_after(tmp_path / "start", epochs=0)
    one = weights_after(tmp_path / "one")
    two = weights_after(tmp_path / "two", processes=2)
    moved = (one - start).norm()
    assert (two - one).norm() < 0.05 * moved
    monkeypatch.setattr(simseg.simclr, "MEMBER", f"{WITHOUT_GRADIENTS}\nsimseg.simclr.run_member()")
    broken = weights_after(tmp_path / "broken", processes=2)
    assert (broken - one).norm() > 0.2 * moved


# A run: its folder, its end

def test_two_processes_go_on_where_they_were_stopped(tmp_path):
    "The same bytes as those that nobody stopped; one process may go on, too."
    params = {"epochs": 3, "processes": 2, "precision": "fp32"}
    whole = run_simclr(small("simclr", tmp_path / "whole", **params))
    run_simclr(small("simclr", tmp_path / "parts", **params, stop_after=1))
    assert read_state(tmp_path / "parts")["state"] == "stopped"
    history = run_simclr(small("simclr", tmp_path / "parts", **params))
    assert [row["loss"] for row in history] == [row["loss"] for row in whole]
    for name in ("encoder.safetensors", "metrics.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = run_simclr(small("simclr", tmp_path / "whole", **{**params, "processes": 1}))  # it is finished
    assert len(again) == 3
    run_simclr(small("simclr", tmp_path / "one", **params, stop_after=2))
    history = run_simclr(small("simclr", tmp_path / "one", **{**params, "processes": 1}))
    assert len(history) == 3 and history[1]["loss"] == whole[1]["loss"]


def test_two_processes_go_on_with_the_depth_that_chance_gave(tmp_path):
    "Which layers are dropped is drawn from a state that is kept, too; smp's lite0 drops some, and leaves some unused."
    params = {"epochs": 2, "processes": 2, "precision": "fp32", "encoder_name": "timm-tf_efficientnet_lite0",
              "max_images": 41, "learning_rate": 0.01, "val_fraction": 0.2}
    run_simclr(small("simclr", tmp_path / "whole", **params))
    for stop_after in (1, 0): run_simclr(small("simclr", tmp_path / "parts", **params, stop_after=stop_after))
    parts = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("parts", "whole")]
    assert parts[0] == parts[1]


def test_what_the_first_process_refuses_is_said_here(tmp_path):
    with pytest.raises(ValueError, match="batch_size=16 is shared by processes=3; take a batch_size that this divides"):
        run_simclr(small("simclr", tmp_path, processes=3))
    with pytest.raises(ValueError, match="only 58 images to train on"):
        run_simclr(small("simclr", tmp_path, processes=2, batch_size=60))
    with pytest.raises(ValueError, match="collapsed in epoch"):
        run_simclr(small("simclr", tmp_path / "hot", processes=2, epochs=5, optimizer="adamw", learning_rate=1.0))
    assert read_state(tmp_path / "hot")["state"] == "failed"


LONG = """
import json, signal, sys
from simseg.simclr import run_simclr
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background takes away
run_simclr(json.loads(sys.argv[1]))
"""


@pytest.fixture
def long_run(tmp_path):
    "A run of two processes that has had an epoch, and whose end nobody will wait for; the processes it started."
    params = small("simclr", tmp_path / "out", epochs=500, processes=2)
    command = [sys.executable, "-c", LONG, json.dumps(params)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith("epoch 1/") for line in run.stdout)
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) == 3  # the launcher and two
    yield run, started, tmp_path / "out"
    for process in psutil.wait_procs(started, timeout=0)[1]: process.kill()
    run.kill()


def test_stopped_by_hand_what_they_learnt_is_kept(long_run):
    run, started, out = long_run
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate()
    assert run.returncode == 0 and "Stopped after epoch" in said
    assert read_state(out)["state"] == "stopped"
    assert (out / "encoder.safetensors").is_file()
    psutil.wait_procs(started)


def test_they_end_with_the_process_that_started_them(long_run):
    run, started, out = long_run
    run.kill()
    psutil.wait_procs(started)  # for as long as it takes
    assert read_state(out)["state"] == "cut off"
