# Tasks for a clone. Needs make and Python; everything else is installed into
# .venv, and as root from Debian, as listed in bindep.txt.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
CODE = setup.py nova_servicegroup demo bench doc releasenotes
# The tests mostly wait. A file stays with one worker, which starts its servers
# once.
WORKERS ?= 3
# In this order: fast failures first.
TESTS ?= $(addprefix nova_servicegroup/tests/,unit functional fault)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	--no-loadscope-reorder
MINUTES ?= 20
# "make test-pythons" runs the unit tests with those that are installed.
PYTHONS ?= python3.9 python3.10 python3.11 python3.12 python3.13
# Nova 34 needs 3.11.
NEEDED ?= (3, 11)
SAMPLE = etc/nova/nova-servicegroup.conf.sample
GENERATE = $(BIN)/oslo-config-generator \
	--config-file etc/nova/nova-servicegroup-config-generator.conf

# pbr asks git for the version. In a tree without a repository, or with one
# that git doesn't trust, the environment gets a version of its own.
ifneq ($(shell git rev-parse --is-inside-work-tree 2>&1),true)
export PBR_VERSION ?= 1.0.0.dev0
endif

.PHONY: help python packages venv demo test test-long unit test-pythons \
	fault-table \
	callers-table fuzz soak lint \
	checkconfig genconfig docs releasenotes bench bench-question \
	bench-start bench-nova bench-store bench-crash bench-zk \
	bench-controller bench-outage clean

help:
	@echo 'make demo         three nova-computes and nine light members: one is'
	@echo '                  killed, six are cut off (DRIVER=db|mc|zk,'
	@echo '                  ZOOKEEPER=host:port)'
	@echo 'make test         unit, contract, functional and fault tests'
	@echo '                  (ARGS="-k zk" TESTS=path choose some of them,'
	@echo '                  WORKERS=0 runs them one after the other)'
	@echo 'make test-long    the long tests, which "make test" skips'
	@echo 'make unit         the unit tests (make unit PYTHON=python3.12)'
	@echo 'make test-pythons the same, with each Python from 3.9 to 3.13'
	@echo 'make fault-table  the table of faults in the documentation, from its tests'
	@echo 'make callers-table  the tables of what Nova does in doubt, likewise'
	@echo 'make fuzz         a million random inputs for all parsers'
	@echo 'make soak         two thousand members of each driver, for MINUTES=20'
	@echo 'make lint         ruff, and the H checks of hacking'
	@echo 'make genconfig    write the sample configuration again'
	@echo 'make checkconfig  compare the committed sample with the options'
	@echo 'make docs         the documentation, into doc/build/html, and the'
	@echo '                  man page, into doc/build/man'
	@echo 'make releasenotes the release notes, into releasenotes/build/html'
	@echo 'make bench        bench-question, -start, -nova, -store, -crash, -zk,'
	@echo '                  -controller: costs, and how fast (root, 25 minutes);'
	@echo '                  results in bench/results'
	@echo 'make bench-outage ten thousand members through outages of ZooKeeper'
	@echo '                  (about 45 minutes)'
	@echo 'make clean        remove all generated files'

demo: $(VENV)/installed-demo
	@$(BIN)/python demo/demo.py $(addprefix --driver=,$(DRIVER)) \
		$(addprefix --zookeeper=,$(ZOOKEEPER)) $(ARGS)

# Before the tests, which install nothing. Without root some of them can run.
packages:
	@tools/install-packages test || [ "$$(id -u)" != 0 ]

test: packages $(VENV)/installed
	$(PYTEST) -m 'not long' $(ARGS) $(TESTS)

test-long: packages $(VENV)/installed
	$(PYTEST) -m long $(ARGS) $(TESTS)

unit: WORKERS := 4
unit: $(VENV)/installed
	$(PYTEST) -m 'not long' $(ARGS) nova_servicegroup/tests/unit

test-pythons:
	@for python in $(PYTHONS); do \
		command -v $$python >/dev/null || \
			{ echo "There is no $$python here."; continue; }; \
		echo "With $$python:"; \
		$(MAKE) --no-print-directory unit PYTHON=$$python NEEDED='(3, 9)' \
			VENV=.venvs/$$(basename $$python) || exit 1; done

# The tests that show the faults of admin/faults.rst, the long ones too.
fault-table: packages $(VENV)/installed
	$(PYTEST) -m fault --fault-table doc/source/admin/faults.rst $(ARGS) $(TESTS)

# The tables of doc/source/admin/callers.rst, which the same tests compare.
callers-table: packages $(VENV)/installed
	WRITE_CALLERS=1 $(PYTEST) $(ARGS) \
		nova_servicegroup/tests/functional/test_callers.py

fuzz: $(VENV)/installed
	$(BIN)/python -m nova_servicegroup.tests.fuzz $(ARGS)

soak: packages $(VENV)/installed-bench
	$(BIN)/python bench/soak.py --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check $(CODE)
	$(BIN)/flake8 $(CODE)

genconfig: $(VENV)/installed
	$(GENERATE) --output-file $(SAMPLE)

checkconfig: $(VENV)/installed
	$(GENERATE) --output-file $(VENV)/sample
	diff -u $(SAMPLE) $(VENV)/sample
	@echo '$(SAMPLE) is what the options say.'

docs: $(VENV)/installed-doc
	$(BIN)/sphinx-build -W --keep-going -q -b html \
		-d doc/build/doctrees doc/source doc/build/html
	$(BIN)/sphinx-build -W --keep-going -q -b man \
		-d doc/build/doctrees doc/source doc/build/man
	@echo 'Open doc/build/html/index.html'

releasenotes: $(VENV)/installed-doc
	$(BIN)/sphinx-build -W --keep-going -q -b html \
		-d releasenotes/build/doctrees releasenotes/source \
		releasenotes/build/html
	@echo 'Open releasenotes/build/html/index.html'

bench: bench-question bench-start bench-nova bench-store bench-crash bench-zk \
	bench-controller

bench-question: packages $(VENV)/installed-bench
	$(BIN)/python bench/question.py $(ARGS)

bench-start: packages $(VENV)/installed
	$(BIN)/python bench/start.py $(ARGS)

bench-nova: packages $(VENV)/installed
	$(BIN)/python bench/real_nova.py $(ARGS)

bench-store: packages $(VENV)/installed-bench
	$(BIN)/python bench/store.py $(ARGS)

bench-crash: packages $(VENV)/installed-bench
	$(BIN)/python bench/crash.py $(ARGS)

bench-zk: packages $(VENV)/installed-bench
	$(BIN)/python bench/zk.py $(ARGS)

bench-controller: packages $(VENV)/installed
	$(BIN)/python bench/controller.py $(ARGS)

bench-outage: packages $(VENV)/installed
	$(BIN)/python bench/outage.py $(ARGS)

venv: $(VENV)/installed

# The package runs on 3.9, and its unit tests do, with Nova 31. Debian leaves
# ensurepip out of its python3.
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < $(NEEDED))' || \
		{ echo 'This needs Python $(NEEDED) or later: make PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tools/install-packages

$(VENV)/created: | python
	@[ ! -f $(VENV) ] || rm $(VENV) # tox leaves a file of that name
	@tools/with-progress 'Making $(VENV)' $(PYTHON) -m venv $(VENV)
	@touch $@

# Less than the tests need, and as much of it as fits into a minute or two.
$(VENV)/installed-demo: pyproject.toml setup.py setup.cfg requirements.txt \
		test-requirements.txt | $(VENV)/created
	@echo 'Installing Nova into $(VENV), the first time only.'
	@tools/with-progress 'Installing Nova' \
		$(BIN)/python -m pip install -q --disable-pip-version-check \
		-c test-requirements.txt nova -e .
	@touch $@

$(VENV)/installed: pyproject.toml setup.py setup.cfg requirements.txt \
		test-requirements.txt | $(VENV)/created
	@echo 'Installing Nova and what the tests need into $(VENV).'
	$(BIN)/python -m pip install -q --disable-pip-version-check \
		-r test-requirements.txt -e .
	@touch $@

$(VENV)/installed-bench: bench/requirements.txt $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check \
		-r bench/requirements.txt
	@touch $@

$(VENV)/installed-doc: doc/requirements.txt $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check \
		-r doc/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) .tox .venvs .pytest_cache .ruff_cache .coverage \
		build dist doc/build releasenotes/build *.egg-info
	find nova_servicegroup -name __pycache__ -prune -exec rm -rf {} +
