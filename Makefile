PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LABELS ?=
STUDIES ?=
DICOM ?=
HIPPOCAMPUS ?=
ATRIA ?=
ONCE ?=
N ?= 200
PORT ?= 8000
COMPILE := --python-version 3.11 --no-header --no-annotate --no-emit-index-url
CONF := $(if $(LABELS),--conf labels $(LABELS))
LONGEST := 350
# two files of tests at a time, on one core each: threads that wait for each other take ten times longer
TWO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=20

.DEFAULT_GOAL := help
.PHONY: help demo test faults serve serve-pacs lint audit bench lock clean

help:    ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.ready    ## play a whole annotation session on made-up scans [STUDIES=DIR LABELS=a,b ONCE=1]
	$(BIN)/uncol demo $(if $(STUDIES),--studies "$(STUDIES)") $(if $(LABELS),--labels "$(LABELS)") $(if $(ONCE),--once)

serve: $(VENV)/.ready    ## start the server on your scans: STUDIES=DIR [LABELS=a,b PORT=8000]
	@test -n "$(STUDIES)" || { echo "Say where your scans are: make serve STUDIES=DIR"; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" monailabel start_server --app apps/uncol --studies "$(STUDIES)" --port $(PORT) $(CONF)

serve-pacs: $(VENV)/.ready    ## start a PACS with OHIF and the server [DICOM=DIR LABELS=a,b PORT=8000]
	$(BIN)/uncol serve-pacs --port $(PORT) $(if $(DICOM),--dicom "$(DICOM)") $(if $(LABELS),--labels "$(LABELS)")

test: $(VENV)/.ready-dev    ## run all tests
	$(TWO) -m "not integration and not slow and not gpu and not browser and not faults"
	$(TWO) -m "integration or slow or browser or faults"

faults: $(VENV)/.ready-dev    ## kill processes and send requests at random [N=200]
	UNCOL_FAULTS=$(N) $(BIN)/python -m pytest -q -s tests/faults

lint: $(VENV)/.ready-dev    ## check format, style, types, complexity and file sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/xenon --max-absolute B lib apps benchmarks
	@git ls-files '*.py' | xargs wc -l | awk '$$2 != "total" && $$1 > $(LONGEST) { print $$2 ": " $$1 " lines, at most $(LONGEST)"; long = 1 } END { exit long }'

audit: $(VENV)/.ready-dev    ## look pinned packages up among known weaknesses; needs the internet
	grep -v '^-e' requirements.txt > $(VENV)/audit.txt
	$(BIN)/uv tool run pip-audit --requirement $(VENV)/audit.txt --no-deps --disable-pip

bench: $(VENV)/.ready    ## measure what README states; hours with HIPPOCAMPUS=DIR and ATRIA=DIR
	$(BIN)/uncol demo --once
	$(BIN)/python benchmarks/infer_latency.py --repeats 9
	$(BIN)/python benchmarks/next_sample.py
	@test -z "$(HIPPOCAMPUS)" || $(BIN)/uncol benchmark ssl --studies "$(HIPPOCAMPUS)" --labels anterior,posterior --preset small3d --methods supervised,bcp,uncol,supervised_all --out bench-out/ssl_hippocampus.jsonl
	@test -z "$(ATRIA)" || $(BIN)/uncol benchmark ssl --studies "$(ATRIA)" --labels atrium --preset small3d --train 80 --test 20 --budgets 4 --seeds 0,1 --methods supervised,mean_teacher,bcp,uncol,uncol_no_teacher --out bench-out/ssl_left_atrium.jsonl

lock: $(VENV)/.ready-dev    ## pin requirements anew
	$(BIN)/uv pip compile requirements.in $(COMPILE) -o requirements.txt
	$(BIN)/uv pip compile requirements-dev.in -c requirements.txt $(COMPILE) -o requirements-dev.txt
	echo "-e ." >> requirements.txt

clean:    ## remove the environment and what demos and benchmarks wrote
	rm -rf $(VENV) demo-out bench-out

# uv installs in a minute what takes pip five, but leaves out the console command and the plug-ins
# of MONAI Label's wheel (its data folder is misnamed); pip adds them in seconds. sam2, which MONAI
# Label's wheel requires, is compiled against torch; the constraint keeps it from fetching another.
# Modules are compiled once, here: where a process may not write (PYTHONDONTWRITEBYTECODE, another
# user's folder) each start would compile them again, 23 s instead of 9 s for MONAI alone.
$(VENV)/.ready $(VENV)/.ready-dev: export UV_COMPILE_BYTECODE := 1
$(VENV)/.ready: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv
	grep '^torch==' requirements.txt > $(VENV)/build.txt
	SAM2_BUILD_CUDA=0 $(BIN)/uv pip install -q --python $(BIN)/python --build-constraints $(VENV)/build.txt -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --force-reinstall monailabel==0.8.5
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python -r requirements-dev.txt
	touch $@
