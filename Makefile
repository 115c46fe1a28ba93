# ModelMora: `make serve` and `make test` set up what they need. Everything lands in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PROTO  := .venv-proto
STUBS  := grpcio-tools==1.71.2 mypy-protobuf==3.6.0 grpcio==1.85.1 protobuf==5.29.6 setuptools==84.2.1 types-protobuf==7.35.1.20260906
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
SOURCES := modelmora api runners registry adapters subscribers operations load training wiring service.py
SUDO   = $(shell test "$$(id -u)" = 0 || command -v sudo)
LOCK   := $(UV) pip compile -q pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.PHONY: browser kafka serve test test-all nightly endurance check setup components bench bench-tools proto lock train clean

serve: $(VENV)/.serve  ## Serve the bundled model on http://127.0.0.1:3000 and gRPC 127.0.0.1:50051
	$(BIN)/modelmora serve

test: setup  ## The tests; with CI=true absence is a failure and the slower tier runs too
	$(BIN)/pytest -m "not nightly"

test-all: components  ## What CI runs
	CI=true $(MAKE) test

nightly: components  ## Soak, fuzz, chaos, heavy builds
	CI=true $(BIN)/pytest -m nightly --timeout 3600
	$(MAKE) endurance

endurance: setup  ## What is promised under strain: bad items, more models than fit, a soak, a swap (40 minutes)
	$(BIN)/python -m load.bench bad
	$(BIN)/python -m load.bench zoo
	$(BIN)/python -m load.bench soak
	$(BIN)/python -m load.bench swap

check: setup  ## Lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES) tests
	$(BIN)/lint-imports

setup: $(VENV)/.dev  ## Everything development needs

components: $(VENV)/.components $(PROTO)/.tools kafka browser  ## What tests need besides: PostgreSQL, SeaweedFS, Redis, Kafka, Chromium, the generator of the stubs

kafka: $(VENV)/kafka/.complete  ## Kafka's jars, from Maven Central

browser:  ## Debian's Chromium and its driver, for tests of the web pages (as root, or by sudo)
	if command -v chromium && command -v chromedriver; then :; \
	elif command -v apt-get; then $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; \
	else echo "NOT INSTALLED: chromium and chromedriver; tests of the web pages are skipped"; fi

bench: setup  ## The benchmark's table (long); see docs/performance.md
	$(BIN)/python -m load.bench

bench-tools: setup  ## wrk, the native load generator (Debian, as root); py-spy and LitServe come with setup
	apt-get install -y wrk

$(VENV)/.bootstrap: requirements/bootstrap.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements/bootstrap.txt
	touch $@

$(VENV)/.serve: requirements/serve.txt pyproject.toml $(VENV)/.bootstrap
	$(UV) pip install -q --require-hashes -r requirements/serve.txt
	$(UV) pip install -q --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.serve
	$(UV) pip install -q --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.components: requirements/components.txt $(VENV)/.dev
	$(UV) pip install -q --require-hashes -r requirements/components.txt
	touch $@

$(VENV)/kafka/.complete: load/components/pom.xml | $(VENV)/.bootstrap
	@{ command -v java && command -v mvn; } >/dev/null || { echo 'Kafka takes Java 17 and Maven: on Debian, apt-get install openjdk-17-jre-headless maven'; exit 1; }
	mvn -B -q -f load/components/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(VENV)/kafka
	touch $@

$(PROTO)/.tools: $(VENV)/.bootstrap  # apart: it holds protobuf below 6
	test -x $(PROTO)/bin/python || $(UV) venv -q --python $(BIN)/python $(PROTO)
	$(UV) pip install -q --python $(PROTO)/bin/python $(STUBS)
	touch $@

lock: $(VENV)/.bootstrap  ## Resolve anew, for Linux and macOS, Python 3.11 and 3.12, with hashes
	printf 'setuptools>=77\nuv>=0.5\n' | $(UV) pip compile -q - --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements/bootstrap.txt
	$(LOCK) --extra dev --extra components -o requirements/components.txt
	$(LOCK) --extra dev -c requirements/components.txt -o requirements/dev.txt
	$(LOCK) --extra serve -c requirements/components.txt -o requirements/serve.txt

proto: $(PROTO)/.tools  ## Generate the stubs from modelmora/proto/*.proto
	PATH="$(CURDIR)/$(PROTO)/bin:$$PATH" $(PROTO)/bin/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. modelmora/proto/*.proto

train: setup  ## Train the bundled models anew
	$(BIN)/python -m training.shapes_clip.train --out registry/bundled/shapes-clip
	$(BIN)/python -m training.shapes_sam.train --out registry/bundled/shapes-sam

clean:
	rm -rf $(VENV) $(PROTO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
