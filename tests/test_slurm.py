"""A study on a cluster: Slurm on this machine, loopback only, brought up and down by slurm_cluster.sh.

Skipped where Slurm and munge are not installed (Debian: apt-get install slurm-wlm munge), unless SIMSEG_SLURM=required.
"""
import os
import re
import shutil
import subprocess
import time

import pytest
from conftest import BIN, ROOT, TWO_ENCODERS, results, with_our_commands

from simseg.run import read_state

SEARCHED = f"{os.environ['PATH']}:/usr/sbin"
INSTALLED = all(shutil.which(name, path=SEARCHED) for name in ("slurmctld", "slurmd", "munged"))
if not INSTALLED and os.environ.get("SIMSEG_SLURM") != "required":
    pytest.skip("Slurm is not installed here: apt-get install slurm-wlm munge", allow_module_level=True)

pytestmark = pytest.mark.slow
STUDY = TWO_ENCODERS + """\
simclr: {{batch_size: 16, epochs: 3}}
unet: {{dataset: synthetic, max_images: 192, batch_size: 4, epochs: 8}}
"""
# as the profile has it, but that there is no accounting here, and nobody who would be disturbed by a question a second
ON_SLURM = ["--workflow-profile", "profiles/slurm", "--jobs", "2", "--slurm-no-account", "--latency-wait", "5",
            "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1",
            "--seconds-between-status-checks", "1"]


@pytest.fixture
def cluster(tmp_path):
    "The environment of a process that submits to it."
    script = ROOT / "tests" / "slurm_cluster.sh"
    folder = tmp_path / "cluster"
    subprocess.run([script, "up", folder], check=True)
    found_here = f"{folder}/bin{os.pathsep}{with_our_commands()['PATH']}"
    yield with_our_commands(SLURM_CONF=str(folder / "slurm.conf"), PATH=found_here, OMP_NUM_THREADS="1")
    subprocess.run([script, "down", folder], check=True)


def start(file, environment, *options):
    command = [BIN / "snakemake", *options, "--configfile", file]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def job_of(environment, words: str) -> str:
    "The number of the running job whose comment says these words, as Snakemake writes them."
    asked = ["squeue", "--noheader", "--states=running", "--format=%i %k"]
    lines = subprocess.run(asked, env=environment, capture_output=True, text=True).stdout.splitlines()
    (number,) = [line.split()[0] for line in lines if words in line]
    return number


def test_a_study_on_a_cluster_is_the_study(make_study, cluster):
    "Two cells at a time, one cancelled in mid-training, then the same command again: the bytes of a study run here."
    file, here = make_study("here", STUDY)
    local = start(file, with_our_commands(OMP_NUM_THREADS="1"), "--cores", "2")
    said, _ = local.communicate()
    assert local.returncode == 0, said[-3000:]
    file, there = make_study("there", STUDY)
    submitted = start(file, cluster, *ON_SLURM)
    training = there / "unet" / "scratch" / "ratio0.5" / "seed0"
    while submitted.poll() is None and read_state(training).get("epoch", 0) < 2: time.sleep(0.1)
    subprocess.run(["scancel", job_of(cluster, "rule_unet_wildcards_scratch")], env=cluster, check=True)
    said, _ = submitted.communicate()
    assert submitted.returncode == 1, said[-3000:]
    assert read_state(training)["state"] == "cut off"
    assert (there / "evaluation" / "animals" / "ratio0.5" / "seed0" / "metrics.json").is_file()  # left alone
    again = start(file, cluster, *ON_SLURM)
    said, _ = again.communicate()
    assert again.returncode == 0, said[-3000:]
    epochs = re.findall(r"^epoch (\d+)/", (training / "log.txt").read_text(), re.MULTILINE)
    assert int(epochs[0]) > 2 and epochs[-1] == "8"
    assert results(there) == results(here) and len(results(there)) > 10
