# make demo    set up, make a pool, play a whole annotation session, print what was learned
# make test    set up, run the tests
# make serve STUDIES=DIR [LABELS=a,b PORT=8000]    start the server on your scans
# make serve-pacs [DICOM=DIR LABELS=a,b PORT=8000]    a PACS with OHIF, filled with DIR or with brains
# make faults [N=200]    kill processes at random moments, N times
# make lint    format, lint and types
# make bench   what the README states, measured again
# make lock    pin requirements anew

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LABELS ?=
STUDIES ?=
DICOM ?=
ONCE ?=
N ?= 200
PORT ?= 8000
COMPILE := --python-version 3.11 --no-header --no-annotate --no-emit-index-url
CONF := $(if $(LABELS),--conf labels $(LABELS))

.PHONY: demo test faults serve serve-pacs lint bench lock clean

demo: $(VENV)/.ready
	$(BIN)/uncol demo $(if $(STUDIES),--studies "$(STUDIES)") $(if $(LABELS),--labels "$(LABELS)") $(if $(ONCE),--once)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -m "not integration and not slow and not gpu and not browser and not faults"
	$(BIN)/python -m pytest -q -m "integration or slow or browser or faults"

serve: $(VENV)/.ready
	@test -n "$(STUDIES)" || { echo "Say where your scans are: make serve STUDIES=DIR"; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" monailabel start_server --app apps/uncol --studies "$(STUDIES)" --host 127.0.0.1 --port $(PORT) $(CONF)

serve-pacs: $(VENV)/.ready
	$(BIN)/uncol serve-pacs --port $(PORT) $(if $(DICOM),--dicom "$(DICOM)") $(if $(LABELS),--labels "$(LABELS)")

faults: $(VENV)/.ready-dev
	UNCOL_FAULTS=$(N) $(BIN)/python -m pytest -q -s tests/faults

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/infer_latency.py
	@test -z "$(STUDIES)" || $(BIN)/python benchmarks/hippocampus_rest.py --data "$(STUDIES)"

lock: $(VENV)/.ready-dev
	$(BIN)/uv pip compile requirements.in $(COMPILE) -o requirements.txt
	$(BIN)/uv pip compile requirements-dev.in -c requirements.txt $(COMPILE) -o requirements-dev.txt
	echo "-e ." >> requirements.txt

clean:
	rm -rf $(VENV) demo-out

# uv installs in a minute what takes pip five, but leaves out the console command and the plug-ins
# of MONAI Label's wheel (its data folder is misnamed); pip adds them in seconds. sam2, which MONAI
# Label's wheel requires, is compiled against torch; the constraint keeps it from fetching another.
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
