# `make` alone lists what there is. Everything lives in .venv; nothing needs root.

PYTHON ?=
PYTEST_ARGS ?=
SECONDS ?= 60
BIN := .venv/bin
STAMP := .venv/.installed

# Run a command and say nothing unless it fails.
QUIET = run() { out=$$("$$@" 2>&1) || { printf '%s\n' "$$out"; exit 1; }; }; run

.DEFAULT_GOAL := help
.PHONY: help install demo play test test-compiled compiled check bench bench-gateway bench-broadcast bench-rebuild bench-unicast bench-center chaos fuzz clean

help:
	@echo "make demo     see it work: real brokers, one server, devices, pushes (installs what is missing)"
	@echo "make play     the same server, left running for you to play with"
	@echo "make install  only install: .venv with Longwire, its SDK and local brokers (PYTHON=... chooses a Python)"
	@echo "make test     all tests, on real brokers (PYTEST_ARGS=... is passed on)"
	@echo "make compiled  compile the room by mypyc (a C compiler and Python's headers; two minutes, once for each state of the sources): faster, never needed"
	@echo "make test-compiled  the tests of a room, on the compiled one"
	@echo "make check    format, lint, types, import contracts"
	@echo "make chaos    the whole system under every fault (FAULT=redis-wiped SEED=7: one of them)"
	@echo "make fuzz     bytes and events against a room, guided by coverage (SECONDS=60); findings are kept in build/fuzz"
	@echo "make bench-gateway  one room at its limit beside send(), uvloop, nats-server and mosquitto (BENCH_ARGS=...; make bench: the same)"
	@echo "make bench-broadcast  whole broadcasts: cost beside a bare walk, pace, pings, offline clients, the forecast"
	@echo "make bench-unicast  messages a CPU-second, at least once, all processes included"
	@echo "make bench-center  the dispatcher and the coordinator: answers a CPU-second, latencies (BENCH_ARGS=dispatch: one part)"
	@echo "make bench-rebuild  how long an emptied Redis takes to be whole again"
	@echo "make clean    remove .venv, caches and builds (not data, which README names)"

install: $(STAMP)

$(STAMP): pyproject.toml sdk/pyproject.toml constraints.txt infra/bootstrap.sh gateway/broadcast/native/sender.c gateway/edge/native/reader.c
	@PYTHON='$(PYTHON)' sh infra/bootstrap.sh
	@touch $@

demo: install
	@$(BIN)/pushctl demo

play: install
	@$(BIN)/pushctl play

# Two workers: the brokers are what is busy. Tests of one group share one set of brokers, hence one worker.
# Kafka is fetched before, where no test's deadline runs.
test: install
	@$(BIN)/python -m infra.local.jars fetch
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

# What runs a room in the test's own process, and whole systems from end to end.
test-compiled: compiled
	@$(BIN)/python -m infra.local.jars fetch
	@LONGWIRE_ROOM__COMPILED=on $(BIN)/python -m pytest -n 2 --dist loadgroup tests/unit tests/property tests/e2e $(PYTEST_ARGS)

compiled: install
	@$(BIN)/python -c 'import mypyc, setuptools' 2>/dev/null || EXTRAS=local,dev,compiled PYTHON='$(PYTHON)' sh infra/bootstrap.sh
	@$(BIN)/python -m gateway.compiled

check: install
	@$(QUIET) $(BIN)/ruff check .
	@$(QUIET) $(BIN)/ruff format --check .
	@$(QUIET) $(BIN)/mypy
	@if grep -q '^\[tool\.importlinter\]' pyproject.toml; then $(QUIET) $(BIN)/lint-imports; fi

bench: bench-gateway

# A room at its limit is a compiled one: without a compiler, or with --compiled off, it is measured interpreted.
bench-gateway: install
	@case '$(BENCH_ARGS)' in *--compiled*) ;; *) $(MAKE) --no-print-directory compiled || true ;; esac
	@$(BIN)/python -m infra.local.jars fetch
	@$(BIN)/python -m bench.gateway $(BENCH_ARGS)

bench-broadcast: install
	@$(BIN)/python -m infra.local.jars fetch
	@$(BIN)/python -m bench.broadcast

bench-unicast: install
	@$(BIN)/python -m infra.local.jars fetch
	@$(BIN)/python -m bench.unicast

bench-center: install
	@$(BIN)/python -m infra.local.jars fetch
	@$(BIN)/python -m bench.center $(BENCH_ARGS)

bench-rebuild: install
	@$(BIN)/python -m bench.rebuild

chaos: install
	@$(BIN)/python -m infra.local.jars fetch
	@FAULT='$(FAULT)' SEED='$(SEED)' DEVICES='$(DEVICES)' $(BIN)/python -m tests.chaos

fuzz: install
	@$(BIN)/python -c 'import atheris' 2>/dev/null || EXTRAS=local,dev,fuzz PYTHON='$(PYTHON)' sh infra/bootstrap.sh
	@$(BIN)/python -m tests.fuzz $(SECONDS)

clean:
	@rm -rf .venv build dist sdk/build sdk/dist
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
