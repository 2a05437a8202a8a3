# A study file becomes a graph of papermill runs: one for each encoder and seed (SimCLR), and two for each
# arm (encoder and recipe), label ratio and seed (U-Net, evaluation), then the report.
#
#     snakemake --cores 2 --config study=params/quickstart.yaml            run it, or what is missing of it
#     snakemake --cores 2 --config study=params/quickstart.yaml --dry-run  say what would run, and why
#     … --config study=… data_root=/path/to/data                             change a key of the study file
#
# A run owns its folder (nbs/base/run): it knows by itself whether it is new, goes on, or is finished. So Snakemake is
# told of one file a run, results.sha256, which names what the run has made by its content: it can be deleted and made
# again without harm, and what depends on a run runs again when its content has changed.
import logging
import os
import platform
import shlex
import signal
import sys
from functools import lru_cache
from pathlib import Path

import torch
import yaml
from filelock import FileLock, Timeout
from snakemake.logging import logger

from simseg.study.batch import STOPS, SUMS, is_heard, print_anything
from simseg.base.parameters import resolved_precision
from simseg.images.sets import files_fingerprint
from simseg.evidence.figures import print_results
from simseg.base.run import code_fingerprint, read_state
from simseg.study.grid import Run, ready_encoder, run_resources, runs_to_do
from simseg.study.files import RESOURCES, check_not_taken, check_study
from simseg.study.lines import StudyLines
from simseg.study.results import collect_results
from simseg.study.files import note_origin, read_study
from simseg.learning.encoders import UNTRAINED, encoder_file

# glibc keeps freed memory for the next step instead of giving it back to the system: benchmarks/bench_memory.py says
# what that gains. Without this line, or with a GLIBC_TUNABLES of one's own, it does as it likes.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824")

# Runs do not hear of what changes figures, nor how Python starts.
for name in [name for name in os.environ if not is_heard(name)]: del os.environ[name]
os.environ["PYTHONUTF8"] = "1"
print_anything()

lines = StudyLines()
if workflow.is_main_process:
    for each in STOPS: signal.signal(each, lines.stop)

# Read anew: Snakemake's reading has lost the lines, and takes a name that is `no` or `007` for something else.
changes = dict(workflow.config_settings.config)
study_files = [*workflow.configfiles, *[str(changes.pop(key)) for key in ["study"] if key in changes]]
study_file = (study_files or ["the command line"])[-1]
try:
    starting = workflow.is_main_process
    study = read_study(*study_files, changes=changes, starting=starting) if study_files else check_study(changes)
    if starting: check_not_taken(study, study_file)
except (ValueError, OSError) as error: sys.exit(f"simseg: {error}")
root = f"outputs/{study['name']}"
grid_cell = "{arm}/ratio{ratio}/seed{seed}"
python = shlex.quote(sys.executable)
papermill = f"{python} -m papermill --engine simseg --kernel python3 --no-progress-bar"
HOW_IT_RUNS = ["data_root", "device", "precision"]  # a change of these makes no other run, and reruns nothing
try: precision = resolved_precision(study["precision"], study["device"])
except ValueError: precision = f"{study['precision']} on {study['device']}"  # where jobs are submitted is no GPU
how_it_runs = " ".join(f"-r {key} {shlex.quote(study[key])}" for key in HOW_IT_RUNS) + f" -p threads {study['threads']}"
write_sums = f"{python} -c 'from simseg.study.batch import write_sums; write_sums()'"

wildcard_constraints:
    encoder=r"\w+", arm=r"\w+(-\w+)?", ratio=r"[0-9.e-]+", seed="[0-9]+"

def as_yaml(params):
    "What makes a run, in one line."
    asked = {key: value for key, value in params.items() if key not in [*HOW_IT_RUNS, "threads"]}
    return yaml.safe_dump(asked, default_flow_style=True, width=float("inf")).strip()

def made(*names):
    "The files that a run has made when it is finished, as a parameter of its rule."
    return lambda wildcards, output: " ".join(f"'{Path(output[0]).parent}/{name}'" for name in names)

def batch_job(notebook):
    "Run a stage, and write down what it has made; a run that was stopped has no metrics.json, and so is not finished."
    asked = f"-y {{params.asked:q}} {how_it_runs}"
    run = f"SIMSEG_GPUS={{resources.gpu}} {papermill} nbs/{notebook}.ipynb {{log[0]}} {asked} > {{log[1]}} 2>&1"
    return f"{run} && {write_sums} {{output}} {{params.made}}"

def run_of(stage, wildcards):
    "The run that a rule's wildcards name."
    if stage == "simclr": return Run(study, stage, wildcards.encoder, seed=int(wildcards.seed))
    return Run(study, stage, *wildcards.arm.split("-"), ratio=float(wildcards.ratio), seed=int(wildcards.seed))

def pretrained(wildcards):
    run = run_of("unet", wildcards)
    if run.inputs: return [f"{used.out_dir}/results.sha256" for used in run.inputs]
    ready = ready_encoder(study, run.start)
    return [] if ready in UNTRAINED else str(encoder_file(ready))

def takes(stage):
    "What a run takes of a machine, as the resources of its rule: mem_mb, runtime in minutes, and gpu."
    return {name: lambda w, name=name: run_resources(run_of(stage, w))[name] for name in RESOURCES}

files_of = lru_cache(files_fingerprint)

def depends_on(run):
    "What makes a run besides its parameters, as it is now: where one of these has changed, it runs again."
    params = run.params
    named = sorted({params["dataset"], params.get("leave_out", "")} - {""})
    images = " ".join(files_of(dataset, study["data_root"]) for dataset in named).strip()
    return f"code {code_fingerprint(run.stage)}, images {images or 'drawn'}, {precision}"

evaluated = [run.out_dir for run in runs_to_do(study)]

# a run whose files somebody has removed, or that are damaged, has to run again
for file in Path(root).glob("**/results.sha256"):
    if read_state(file.parent)["state"] != "done" or not SUMS.fullmatch(file.read_bytes()): file.unlink()
if not all(Path(root, name).exists() for name in ("results.csv", "report.html")):
    Path(root, "report.sha256").unlink(missing_ok=True)

def says_more(record):
    "What Snakemake itself prints: all of a dry run; else warnings and errors that StudyLines has no sentence for."
    if workflow.dryrun: return True
    known = hasattr(record, "shellcmd") or record.getMessage().startswith("RuleException")
    return record.levelno >= logging.WARNING and not known

if workflow.is_main_process:
    os.environ["SIMSEG_STUDY"] = f"{platform.node()}:{os.getpid()}"  # whose jobs end when it does
    # each job takes of these GPUs as many as it asks for, and sees no other
    gpus = ",".join(map(str, range(torch.cuda.device_count())))
    if gpus: os.environ.setdefault("CUDA_VISIBLE_DEVICES", gpus)
    for handler in logger.handlers: handler.addFilter(says_more)
    logger.addHandler(lines)

lock = FileLock(f"{root}/.lock", timeout=0)  # the system lets go of it when this process ends, in whatever way

onstart:
    Path(root).mkdir(parents=True, exist_ok=True)
    try: lock.acquire()
    except Timeout: raise WorkflowError(f"The study {study['name']} is running already; wait for it, or stop it first.")
    note_origin(study, study_file)
    try: lines.begin(study, Path(study_files[-1]).read_text(encoding="utf-8") if study_files else "")
    except (ValueError, OSError) as error: raise WorkflowError(str(error))
    for each in STOPS: signal.signal(each, lines.stop)  # Snakemake has its own by now, which waits for every run's end

make_report = f"{python} -m simseg report {root}/study.yaml > {root}/log.txt 2>&1"

onsuccess: print_results(root)

onerror:
    if lines.stopped: lines.leave()
    # What there is gets its report, and the report says what is missing. It is not the rule's, whose marker says that
    # it is whole.
    if collect_results(study).size: shell(f"{make_report} || true")
    print_results(root)

localrules: report

rule report:
    input: "nbs/5_report.ipynb", [f"{folder}/results.sha256" for folder in evaluated]
    output: f"{root}/report.sha256"
    log: f"{root}/report.ipynb", f"{root}/log.txt"
    params: yaml.safe_dump(study), code_fingerprint("report")
    shell: f"{make_report} && {write_sums} {{output}} {root}/results.csv {root}/report.html"

rule simclr:
    output: f"{root}/simclr/{{encoder}}/seed{{seed}}/results.sha256"
    log: f"{root}/simclr/{{encoder}}/seed{{seed}}/notebook.ipynb", f"{root}/simclr/{{encoder}}/seed{{seed}}/log.txt"
    params:
        asked=lambda w: as_yaml(run_of("simclr", w).params),
        depends=lambda w: depends_on(run_of("simclr", w)),
        made=made("metrics.json", "encoder.safetensors", "learnt_from.safetensors")
    threads: study["threads"]
    resources: **takes("simclr")
    shell: batch_job("2_simclr")

rule unet:
    input: pretrained
    output: f"{root}/unet/{grid_cell}/results.sha256"
    log: f"{root}/unet/{grid_cell}/notebook.ipynb", f"{root}/unet/{grid_cell}/log.txt"
    params:
        asked=lambda w: as_yaml(run_of("unet", w).params),
        depends=lambda w: depends_on(run_of("unet", w)),
        made=made("metrics.json", "model/*")
    threads: study["threads"]
    resources: **takes("unet")
    shell: batch_job("3_unet")

rule evaluation:
    input: f"{root}/unet/{grid_cell}/results.sha256"
    output: f"{root}/evaluation/{grid_cell}/results.sha256"
    log: f"{root}/evaluation/{grid_cell}/notebook.ipynb", f"{root}/evaluation/{grid_cell}/log.txt"
    params:
        asked=lambda w: as_yaml(run_of("evaluation", w).params),
        depends=lambda w: depends_on(run_of("evaluation", w)),
        made=made("metrics.json", "per_image.csv")
    threads: study["threads"]
    resources: **takes("evaluation")
    shell: batch_job("4_evaluation")
