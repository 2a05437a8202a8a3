"A run's parameters alone decide it: what else lies around on a machine is harmless, or refused in a sentence."
import hashlib
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import torch
from conftest import BIN, ROOT, fork_two, small, torchrun, with_our_commands

from simseg.base.parameters import make_accelerator
from simseg.evaluation import run_evaluation
from simseg.base.run import read_state
from simseg.simclr import run_simclr
from simseg.unet import run_unet

RAISES = "raise RuntimeError('a file of the user was run')\n"


def hostile(home) -> dict:
    "An environment in which everything is set that other programs, jobs and habits leave."
    kernel = home / "share" / "kernels" / "python3"
    for folder in (kernel, home / ".ipython" / "profile_default" / "startup", home / ".config" / "matplotlib",
                   home / "hub" / "accelerate", home / "jupyter"):
        folder.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "mine", "language": "python"}')
    (home / ".ipython" / "profile_default" / "startup" / "mine.py").write_text(
        "import numpy\nimport torch\ntorch.set_default_dtype(torch.float64)\nnumpy.random.seed(7)\n")
    (home / ".ipython" / "profile_default" / "ipython_kernel_config.py").write_text(RAISES)
    (home / ".config" / "matplotlib" / "matplotlibrc").write_text("text.usetex: True\nbackend: TkAgg\nfigure.dpi: 9\n")
    (home / "jupyter" / "jupyter_config.py").write_text(RAISES)
    (home / "hub" / "accelerate" / "default_config.yaml").write_text("mixed_precision: fp16\nnum_processes: 4\n")
    left = {
        # of launchers and other jobs
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "203.0.113.1",
        "MASTER_PORT": "29500", "GROUP_RANK": "1", "PET_NNODES": "3",
        "PMI_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2",
        "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7",
        # of Accelerate
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "fp16",
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_MEGATRON_LM": "true",
        "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "ACCELERATE_DYNAMO_BACKEND": "inductor",
        "ACCELERATE_TORCH_DEVICE": "meta", "FORK_LAUNCHED": "1", "HF_HOME": str(home / "hub"),
        # of libraries that compute
        "OMP_NUM_THREADS": "3", "OMP_THREAD_LIMIT": "2", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2",
        "OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F", "TORCH_LOGS": "+dynamo", "TORCHDYNAMO_DISABLE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUDA_VISIBLE_DEVICES": "", "NVIDIA_TF32_OVERRIDE": "1",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
        # of Python, notebooks and figures
        "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "ascii", "HOME": str(home),
        "MPLBACKEND": "TkAgg", "MPLCONFIGDIR": str(home / ".config" / "matplotlib"),
        "IPYTHONDIR": str(home / ".ipython"), "JUPYTER_PATH": str(home / "share"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"), "PAPERMILL_ENGINE": "none",
        # of the place
        "LC_ALL": "C", "LANG": "de_DE.ISO-8859-1", "TZ": "Pacific/Kiritimati", "TMPDIR": str(home / ("long" * 30)),
    }
    (home / ("long" * 30)).mkdir()
    return with_our_commands(**left)


def figures(folder) -> dict:
    "What a run left that figures come from, but for the clock."
    names = ["encoder.safetensors", "model/model.safetensors", "metrics.json", "per_image.csv"]
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    if (folder / "history.csv").exists():
        found["history"] = pd.read_csv(folder / "history.csv").drop(columns="images_per_second").to_csv()
    return found


def three_stages(place) -> dict:  # stage → its parameters
    "Pretrain, fine-tune and evaluate, in a folder."
    return {"simclr": small("simclr", place / "simclr", epochs=1, precision="fp32"),
            "unet": small("unet", place / "unet", epochs=1, precision="fp32", augment=True,
                          encoder=str(place / "simclr")),
            "evaluation": small("evaluation", place / "evaluation", precision="fp32",
                                model_dir=str(place / "unet" / "model"))}


# as a stage's notebook: what a batch job runs is its engine's doing
ALL_STAGES = """
import json
from pathlib import Path
from simseg.evaluation import run_evaluation
from simseg.simclr import run_simclr
from simseg.unet import run_unet

runs = {"simclr": run_simclr, "unet": run_unet, "evaluation": run_evaluation}
for stage, params in json.loads(Path(asked).read_text(encoding="utf-8")).items(): runs[stage](params)
"""


def test_a_hostile_environment_changes_no_byte(tmp_path):
    quiet, noise = tmp_path / "quiet", tmp_path / "lärm und mehr"
    for stage, params in three_stages(quiet).items(): RUNS[stage](params)
    (tmp_path / "asked.json").write_text(json.dumps(three_stages(noise)), encoding="utf-8")
    cells = [nbformat.v4.new_code_cell("asked = ''", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(ALL_STAGES)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "stages.ipynb")
    command = [BIN / "papermill", "--engine", "simseg", "--kernel", "python3", "--no-progress-bar",
               tmp_path / "stages.ipynb", tmp_path / "done.ipynb", "-p", "asked", tmp_path / "asked.json"]
    environment = hostile(tmp_path / "ein Heim für Größen")
    before = os.umask(0o077)
    try: done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    finally: os.umask(before)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in RUNS:
        wanted, found = figures(quiet / stage), figures(noise / stage)
        assert wanted and wanted.keys() == found.keys()
        for name, content in wanted.items(): assert content == found[name], (stage, name)


RUNS = {"simclr": run_simclr, "unet": run_unet, "evaluation": run_evaluation}
IN_PROCESS = {
    "accelerate": {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "bf16",
                   "ACCELERATE_DYNAMO_BACKEND": "inductor"},
    "plugins": {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_DEEPSPEED": "true",
                "ACCELERATE_USE_MEGATRON_LM": "true"},
    "a device": {"ACCELERATE_TORCH_DEVICE": "meta"},
    "another job": {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "203.0.113.1"},
    "MPI": {"PMI_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"},
    "threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_unet(small("unet", folder, epochs=1))
    return figures(folder)


@pytest.mark.parametrize("kind", IN_PROCESS)
def test_a_run_in_a_notebook_or_script_takes_nothing_from_the_environment(kind, undisturbed, tmp_path, monkeypatch):
    for name, value in IN_PROCESS[kind].items(): monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        run_unet(small("unet", tmp_path, epochs=1))
        assert torch.get_num_threads() == (2 if before == 1 else 1)
    finally: torch.set_num_threads(before)
    assert figures(tmp_path) == undisturbed
    assert all(os.environ[name] == value for name, value in IN_PROCESS[kind].items())


def test_several_processes_are_their_own_whatever_another_job_left(tmp_path):
    noise = {}
    for kind in ("another job", "MPI", "threads", "accelerate"): noise |= IN_PROCESS[kind]
    params = {"max_images": 40, "epochs": 1, "precision": "fp32"}
    fork_two(small("simclr", tmp_path / "quiet", **params))
    run = torchrun(2, small("simclr", tmp_path / "noise", **params), **noise)
    _, errors = run.communicate()
    assert run.returncode == 0, errors
    assert figures(tmp_path / "noise") == figures(tmp_path / "quiet")


def test_the_number_of_threads_is_a_parameter(tmp_path):
    "It is written down, and a run is not resumed with another number."
    run_unet(small("unet", tmp_path, epochs=0, threads=2))
    assert "threads: 2" in (tmp_path / "params.yaml").read_text()
    with pytest.raises(ValueError, match=r"holds another run \(threads 2, here 1\)"):
        run_unet(small("unet", tmp_path, epochs=0))
    with pytest.raises(ValueError, match="threads=0 is out of range"): run_unet(small("unet", tmp_path, threads=0))


CHANGED = {
    "default dtype": (torch.set_default_dtype, torch.float64, torch.float32),
    "float32 matmul precision": (torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic debug mode": (torch.set_deterministic_debug_mode, 2, 0),
    "gradient mode": (torch.set_grad_enabled, False, True),
    "mkldnn": (lambda on: torch._C._set_mkldnn_enabled(on), False, True),
    "cudnn": (lambda on: torch._C._set_cudnn_benchmark(on), True, False),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_setting_of_torch_is_refused_in_a_sentence(name, tmp_path):
    change, value, usual = CHANGED[name]
    change(value)
    try:
        with pytest.raises(ValueError, match=f"torch's {name} is .*, which changes figures; set it back to"):
            run_unet(small("unet", tmp_path))
    finally: change(usual)
    run_unet(small("unet", tmp_path, epochs=0))


def test_only_a_process_that_torchrun_started_reads_rank(monkeypatch):
    "One of one, so that nobody has to be waited for."
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": "0"}.items(): monkeypatch.setenv(name, value)
    assert not torch.distributed.is_initialized()
    make_accelerator("cpu", "fp32")
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert make_accelerator("cpu", "fp32", launched=True).gradient_accumulation_steps == 1
    assert torch.distributed.is_initialized()
    torch.distributed.destroy_process_group()
    make_accelerator("cpu", "fp32")


def test_when_a_run_ended_does_not_depend_on_the_time_zone(tmp_path, monkeypatch):
    "Else a study's cells would be put in another order."
    ended = []
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        run_unet(small("unet", tmp_path / zone, epochs=0))
        ended.append(read_state(tmp_path / zone)["when"])
    monkeypatch.undo()
    time.tzset()
    assert ended == sorted(ended)


@pytest.mark.parametrize("temporary", ["", "x" * 90, "x" * 200, "missing", "with spaces and ü"])
def test_a_kernel_starts_wherever_temporary_files_go(temporary, tmp_path):
    folder = tmp_path / temporary
    if temporary != "missing": folder.mkdir(exist_ok=True)
    notebook = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('began')")]), notebook)
    command = [sys.executable, "-m", "papermill", "--engine", "simseg", "--kernel", "python3", "--no-progress-bar"]
    done = subprocess.run([*command, notebook, tmp_path / "b.ipynb"], capture_output=True, text=True, cwd=ROOT,
                          env=with_our_commands(TMPDIR=str(folder)))
    assert done.returncode == 0 and "began" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize("command", ["sha256sum", "sed", "expand", "readlink", "grep -P", "date", "stat -c", "timeout"])
def test_no_command_is_called_that_some_systems_lack_or_have_otherwise(command):
    for name in ("Makefile", "Snakefile"):
        calls = [line for line in (ROOT / name).read_text().splitlines() if re.search(rf"[|&@;\t] ?{command} ", line)]
        assert not calls, (name, calls)


def test_checksums_are_those_of_sha256sum_in_the_order_asked_for(tmp_path):
    "Whatever the locale; a file that is missing ends it."
    (tmp_path / "model").mkdir()
    made = ["metrics.json", "model/README.md", "model/a b.txt", "model/config.json"]
    for name in made: (tmp_path / name).write_text(name)
    command = [sys.executable, "-c", "from simseg.study.batch import write_sums; write_sums()", "sums"]
    elsewhere = with_our_commands(LC_ALL="en_US.UTF-8")
    subprocess.run([*command, "metrics.json", "model/*"], cwd=tmp_path, check=True, env=elsewhere)
    lines = [line.split("  ", 1) for line in (tmp_path / "sums").read_text().splitlines()]
    assert [file for _, file in lines] == made
    assert all(sum_ == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for sum_, file in lines)
    assert subprocess.run([*command, "missing.json"], cwd=tmp_path, capture_output=True).returncode
