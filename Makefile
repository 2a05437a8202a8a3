# Two commands are all a new user needs: `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
CORES  ?= 2
STUDY  ?= quickstart
CONSTRAINTS ?= constraints.txt
ORDER  ?= -p no:randomly
BIN    := .venv/bin
EXECUTE := jupyter nbconvert --to notebook --inplace --execute
MADE_BY_NOTEBOOKS := $(addprefix outputs/, example miniature explore-example explore-tutorial tutorial)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo study test test-slow gpu results lab docs export readme notebooks clean

help:            ## list the targets
	@awk -F ':.*##' '/^[a-z]+: .*##/ { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed  ## create .venv and install simseg with everything it needs

.venv/installed: settings.ini setup.py $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "simseg needs Python 3.11 or newer; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
	touch $@

demo: STUDY = quickstart
demo: study      ## run the quickstart study on synthetic images, print its table

# The Snakefile reads the study's file: Snakemake would tell what it cannot read without file and line.
study: export STUDY := $(STUDY)
study: install   ## run a study, or what is missing: make study STUDY=pets-small DATA_ROOT=/path/to/data ARGS=--dry-run
	@file=$${STUDY#params/}; snakemake --cores $(CORES) \
		--config study="params/$${file%.yaml}.yaml" $(if $(DATA_ROOT),data_root=$(DATA_ROOT)) $(ARGS)

# Tests pass in any order; `make test ORDER=` takes a random one and prints its seed.
# One thread each: two notebooks at a time with two threads each would fight over two cores.
# Notebooks train anew, so what they left the last time goes first.
test: export OMP_NUM_THREADS = 1
test: install    ## execute every notebook and run the tests
	rm -rf $(MADE_BY_NOTEBOOKS)
	nbdev_test --n_workers 2 --do_print
	pytest tests -m "not slow" -n 2 --dist loadfile $(ORDER)

test-slow: install  ## kill studies again and again; run one on a cluster of this machine
	pytest tests -m slow -p no:randomly

gpu: install     ## on a machine with a GPU, 25 minutes: its tests, the benchmarks, a study: make gpu DATA_ROOT=/path/to/data
	python benchmarks/gpu.py $(if $(DATA_ROOT),--data-root $(DATA_ROOT))

results: install  ## draw README and the pages of results from outputs/reference anew; simseg record puts a study there
	for nb in nbs/index.ipynb nbs/tutorials/findings.ipynb nbs/tutorials/results.ipynb; do $(EXECUTE) $$nb || exit 1; done
	nbdev_clean
	$(MAKE) readme

lab: install     ## open JupyterLab on the notebooks
	jupyter lab nbs

docs: install    ## build the site in _docs/html; it opens from disk, without a network
	python nbs/docs/build.py

export: install  ## write simseg/*.py from the notebooks
	nbdev_export

readme: install  ## write README.md from nbs/index.ipynb
	jupyter nbconvert --to markdown --no-input --output-dir . --output README --NbConvertApp.output_files_dir=nbs/readme \
		--TemplateExporter.extra_template_basedirs=nbs/docs --template=readme nbs/index.ipynb

notebooks: export OMP_NUM_THREADS = 1
notebooks: install  ## execute every notebook in place, so that its saved outputs are real, then clean and export
	rm -rf $(MADE_BY_NOTEBOOKS)
	for nb in nbs/*.ipynb; do $(EXECUTE) --ExecutePreprocessor.store_widget_state=False $$nb || exit 1; done
	for nb in nbs/tutorials/*.ipynb; do $(EXECUTE) $$nb || exit 1; done
	nbdev_clean && nbdev_export

clean:           ## remove the environment; outputs/ and the image cache stay
	rm -rf .venv simseg.egg-info
