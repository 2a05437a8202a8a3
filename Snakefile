# A study file becomes a graph of papermill runs: one for each encoder and seed (SimCLR), and two for each
# arm (encoder and recipe), label ratio and seed (U-Net, evaluation), then the report.
#
#     snakemake --cores 2 --configfile params/quickstart.yaml            run it, or what is missing of it
#     snakemake --cores 2 --configfile params/quickstart.yaml --dry-run  say what would run, and why
#     … --config data_root=../shared/data                                change a key of the study file
#
# Executed notebooks are declared as logs, which Snakemake keeps when a run fails: the traceback is in them.
import shlex
import sys

import yaml

from simseg import study as st
from simseg.core import write_yaml

study = st.check_study(config)
root = f"outputs/{study['name']}"
cell = "{arm}/ratio{ratio}/seed{seed}"
papermill = f"{shlex.quote(sys.executable)} -m papermill --kernel python3 --log-output --no-progress-bar"
WHERE = ["data_root", "device", "precision"]  # where a cell runs, not what it is: a change of these reruns nothing
where = " ".join(f"-r {key} {shlex.quote(study[key])}" for key in WHERE)

wildcard_constraints:
    encoder=r"\w+", arm=r"\w+(-\w+)?", ratio=r"[0-9.]+", seed="[0-9]+"

def what(params):
    return yaml.safe_dump({key: value for key, value in params.items() if key not in WHERE}, default_flow_style=True, width=float("inf")).strip()

def pretrained(wildcards):
    encoder, _ = st.split_arm(wildcards.arm)
    return [] if encoder in st.UNTRAINED else f"{root}/simclr/{encoder}/seed{wildcards.seed}/encoder.safetensors"

rule report:
    input:
        "nbs/05_study.ipynb",
        [f"{st.run_dir(study, 'evaluation', arm, seed, ratio)}/metrics.json" for arm, ratio, seed in st.study_cells(study)],
    output: study=f"{root}/study.yaml", results=f"{root}/results.csv", notebook=f"{root}/report.ipynb", html=f"{root}/report.html"
    run:
        write_yaml(output.study, study)
        shell("{papermill} {input[0]} {output.notebook} -p study_file {output.study}")
        st.write_report_html(output.notebook)

rule simclr:
    output: f"{root}/simclr/{{encoder}}/seed{{seed}}/encoder.safetensors", f"{root}/simclr/{{encoder}}/seed{{seed}}/metrics.json"
    log: f"{root}/simclr/{{encoder}}/seed{{seed}}/notebook.ipynb"
    params: lambda w: what(st.simclr_params(study, w.encoder, int(w.seed)))
    threads: study["threads"]
    shell: "{papermill} nbs/02_simclr.ipynb {log} -y {params[0]:q} {where}"

rule unet:
    input: pretrained
    output: directory(f"{root}/unet/{cell}/model"), f"{root}/unet/{cell}/metrics.json"
    log: f"{root}/unet/{cell}/notebook.ipynb"
    params: lambda w: what(st.unet_params(study, w.arm, float(w.ratio), int(w.seed)))
    threads: study["threads"]
    shell: "{papermill} nbs/03_unet.ipynb {log} -y {params[0]:q} {where}"

rule evaluation:
    input: f"{root}/unet/{cell}/model"
    output: f"{root}/evaluation/{cell}/metrics.json"
    log: f"{root}/evaluation/{cell}/notebook.ipynb"
    params: lambda w: what(st.evaluation_params(study, w.arm, float(w.ratio), int(w.seed)))
    threads: study["threads"]
    shell: "{papermill} nbs/04_evaluation.ipynb {log} -y {params[0]:q} {where}"
