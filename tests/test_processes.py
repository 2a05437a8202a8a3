"One pretraining by several processes: what it learns is what one would learn, and it ends when it should."
import shutil
import signal

import psutil
import pytest
import torch
from conftest import fork_two, small, start_two, torchrun
from safetensors.torch import load_file

import simseg.simclr
from simseg.base.files import read_csv
from simseg.base.parameters import generator_for
from simseg.base.run import read_state
from simseg.simclr import SimCLR, nt_xent, run_simclr, share_batch_norm
from simseg.images.synthetic import make_synthetic

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
    images = torch.from_numpy(make_synthetic(8, 64).images)
    found = exact_step(images, rank, 2, encoder_name) if encoder_name else step(images, rank, 2)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def of_two(folder, broken: bool = False, encoder_name: str = "") -> dict:
    start_two(one_of_two, str(folder), broken, encoder_name)
    first, second = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in first.items(): assert torch.equal(value, second[name]), name
    return first


def far(found: dict, wanted: dict) -> float:
    "How far gradients are apart at most, each against its own length."
    names = [name for name in wanted if name != "loss" and not name.startswith("buffer")]
    return max(((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in names)


def test_two_processes_of_four_images_are_one_of_eight(tmp_path):
    "Loss, gradients and running statistics; without gradients through the gather they are others."
    alone = step(torch.from_numpy(make_synthetic(8, 64).images), 0, 1)
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
    alone = exact_step(torch.from_numpy(make_synthetic(8, 64).images), 0, 1, name)
    two = of_two(tmp_path, encoder_name=name)
    assert two.keys() == alone.keys()
    for key, value in alone.items(): torch.testing.assert_close(two[key], value, rtol=1e-7, atol=1e-9, msg=key)


# Twenty steps

TWENTY = {"max_images": 178, "batch_size": 8, "image_size": 64, "epochs": 1, "warmup_epochs": 0, "learning_rate": 0.003,
          "precision": "fp32"}


def run_two(params: dict, *program: str):
    "A run of two processes that ends well."
    run = torchrun(2, params, *program)
    _, errors = run.communicate()
    assert run.returncode == 0, errors[-3000:]


def weights(out_dir) -> torch.Tensor:
    "All weights of an encoder, in one vector."
    saved = load_file(out_dir / "encoder.safetensors")
    return torch.cat([value.flatten() for name, value in saved.items() if name.endswith(("weight", "bias"))])


@pytest.mark.slow  # seven processes, of which six share two cores
def test_twenty_steps_of_two_processes_end_where_one_does(tmp_path):
    "Weights of the same file, by how far they moved; without gradients through the gather they end elsewhere."
    run_simclr(small("simclr", tmp_path / "start", **{**TWENTY, "epochs": 0}))
    run_simclr(small("simclr", tmp_path / "one", **TWENTY))
    run_two(small("simclr", tmp_path / "two", **TWENTY))
    program = tmp_path / "broken.py"
    program.write_text(f"{WITHOUT_GRADIENTS}\nimport sys\nfrom simseg.tools.command import main\n"
                       "main(['pretrain', sys.argv[1]])\n")
    run_two(small("simclr", tmp_path / "broken", **TWENTY), str(program))
    start, one, two, broken = [weights(tmp_path / name) for name in ("start", "one", "two", "broken")]
    moved = (one - start).norm()
    assert (two - one).norm() < 0.05 * moved
    assert (broken - one).norm() > 0.2 * moved


# A run: its folder, its end

def losses(out_dir) -> list: return read_csv(out_dir / "history.csv")["loss"].tolist()


def test_two_processes_go_on_where_they_were_stopped(tmp_path):
    "The same bytes as those that nobody stopped; one process may go on, too."
    params = {"epochs": 2, "precision": "fp32"}
    fork_two(small("simclr", tmp_path / "whole", **params))
    fork_two(small("simclr", tmp_path / "parts", **params, stop_after=1))
    assert read_state(tmp_path / "parts")["state"] == "stopped"
    shutil.copytree(tmp_path / "parts", tmp_path / "one")
    fork_two(small("simclr", tmp_path / "parts", **params))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("encoder.safetensors", "metrics.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(run_simclr(small("simclr", tmp_path / "whole", **params))) == 2  # it is finished
    history = run_simclr(small("simclr", tmp_path / "one", **params))
    assert len(history) == 2 and history[0]["loss"] == losses(tmp_path / "whole")[0]


@pytest.mark.slow  # six processes with smp's largest of small encoders
def test_two_processes_go_on_with_the_depth_that_chance_gave(tmp_path):
    "Which layers are dropped is drawn from a state that is kept, too; smp's lite0 drops some, and leaves some unused."
    params = {"epochs": 2, "precision": "fp32", "encoder_name": "timm-tf_efficientnet_lite0", "max_images": 41,
              "learning_rate": 0.01, "val_fraction": 0.2}
    run_two(small("simclr", tmp_path / "whole", **params))
    for stop_after in (1, 0): run_two(small("simclr", tmp_path / "parts", **params, stop_after=stop_after))
    parts = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("parts", "whole")]
    assert parts[0] == parts[1]


REFUSED = {  # sentence → what is wrong
    "batch_size=15 is shared by 2 processes; take a batch_size that this divides": {"batch_size": 15},
    "only 58 images to train on": {"batch_size": 60},
    "collapsed in epoch": {"epochs": 5, "optimizer": "adamw", "learning_rate": 1.0},  # the first process sees it alone
}


@pytest.mark.parametrize("sentence", [pytest.param(each, marks=[] if "collapsed" in each else pytest.mark.slow)
                                      for each in REFUSED])
def test_what_one_process_refuses_ends_all_with_its_sentence(sentence, tmp_path):
    run = torchrun(2, small("simclr", tmp_path / "out", **REFUSED[sentence]))
    _, errors = run.communicate()
    assert run.returncode != 0
    assert any(line.startswith("simseg: ") and sentence in line for line in errors.splitlines()), errors[-3000:]
    if "batch_size=15" not in sentence: assert read_state(tmp_path / "out")["state"] == "failed"


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="batch_size=15 is shared by 2 processes; take a batch_size that this divides"):
        run_simclr(small("simclr", tmp_path, batch_size=15))


def test_stopped_by_hand_what_they_learnt_is_kept(tmp_path):
    run = torchrun(2, small("simclr", tmp_path / "out", epochs=500))
    assert any(line.startswith("epoch 1/") for line in run.stdout)
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate()
    assert "Stopped after epoch" in said
    assert read_state(tmp_path / "out")["state"] == "stopped"
    assert (tmp_path / "out" / "encoder.safetensors").is_file()
    psutil.wait_procs(started)
