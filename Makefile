# ModelMora: `make serve` and `make test` set up what they need. Everything lands in .venv.
JOBS ?= 2
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PROTO  := .venv-proto
STUBS  := grpcio-tools==1.71.2 mypy-protobuf==3.6.0 grpcio==1.85.1 protobuf==5.29.6 setuptools==84.2.1 types-protobuf==7.35.1.20260906
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
SOURCES := modelmora api runners registry adapters subscribers operations load training wiring service.py
SCRIPTS := deploy/image/healthy.py
SUDO   = $(shell test "$$(id -u)" = 0 || command -v sudo)
LOCK   := $(UV) pip compile -q pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.PHONY: rivals lock-rivals bento image image-torch image-tools lock-torch browser kafka prometheus serve test test-all nightly endurance check setup components docs bench bench-tools load-tools proto lock train clean

serve: $(VENV)/.serve  ## Serve the bundled model on http://127.0.0.1:3000 and gRPC 127.0.0.1:50051
	$(BIN)/modelmora serve

test: setup  ## The tests, those that start no server in JOBS processes; with CI=true absence is a failure and the slower tier runs too
	@failed=0; \
	$(BIN)/pytest -m "not nightly" -n $(JOBS) --dist loadfile --ignore tests/e2e || failed=1; \
	$(BIN)/pytest -m "not nightly" tests/e2e || failed=1; \
	exit $$failed

test-all: components  ## What CI runs
	CI=true $(MAKE) test

nightly: components load-tools image-tools  ## Soak, fuzz, chaos, heavy builds
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
	$(BIN)/mypy $(SOURCES) $(SCRIPTS) tests
	$(BIN)/lint-imports

setup: $(VENV)/.dev  ## Everything development needs

components: $(VENV)/.components $(PROTO)/.tools kafka prometheus browser $(VENV)/judges/compose  ## What tests need besides: PostgreSQL, SeaweedFS, Redis, Kafka, Chromium, who judges what deploy/ has, the generator of the stubs

kafka: $(VENV)/kafka/.complete  ## Kafka's jars, from Maven Central

prometheus: $(VENV)/prometheus/.complete  ## promtool and amtool, from Debian's packages, unpacked and not installed

browser:  ## Debian's Chromium and its driver, for tests of the web pages (as root, or by sudo)
	if command -v chromium && command -v chromedriver; then :; \
	elif command -v apt-get; then $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver; \
	else echo "NOT INSTALLED: chromium and chromedriver; tests of the web pages are skipped"; fi

docs: setup  ## The documentation as a site, in build/site
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site

bento: setup  ## The Bento, with the networks that run without torch: `bentoml serve modelmora:latest`
	MODELMORA_REGISTRY=registry/ModelRegistry.onnx.yaml $(BIN)/python -m wiring.carry shapes-clip
	BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build -q

image: bento  ## The container image modelmora:latest, without torch; deploy/image/build.sh has its settings
	deploy/image/build.sh

image-torch: bento  ## The same with torch, as its lock has it: with CUDA's libraries (6 GB), unless TORCH_INDEX has others
	REQUIREMENTS=image-torch REGISTRY=ModelRegistry.yaml deploy/image/build.sh modelmora:torch

image-tools: setup  ## What builds and runs images, where no docker is (Debian, as root)
	command -v buildah podman runc debootstrap > /dev/null || { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq buildah podman runc debootstrap; }

bench: setup  ## The benchmark's table (long); see docs/performance.md
	$(BIN)/python -m load.bench

bench-tools: setup  ## wrk, the native load generator (Debian, as root); py-spy and LitServe come with setup
	apt-get install -y wrk

rivals: $(VENV)-infinity/.complete $(VENV)-mlserver/.complete  ## infinity and MLServer, each in an environment of its own, for `load.bench --parties`

$(VENV)-infinity/.complete $(VENV)-mlserver/.complete: $(VENV)-%/.complete: requirements/rival-%.txt $(VENV)/.bootstrap
	test -x $(VENV)-$*/bin/python || $(UV) venv -q --python $(BIN)/python $(VENV)-$*
	$(UV) pip install -q --python $(VENV)-$*/bin/python --require-hashes -r requirements/rival-$*.txt
	touch $@

load-tools: $(VENV)-load/.complete  ## locust and what draws its reports, in an environment of their own; see docs/load.md

$(VENV)-load/.complete: requirements/load.txt pyproject.toml $(VENV)/.bootstrap
	test -x $(VENV)-load/bin/python || $(UV) venv -q --python $(BIN)/python $(VENV)-load
	$(UV) pip install -q --python $(VENV)-load/bin/python --require-hashes -r requirements/load.txt
	touch $@

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

$(VENV)/judges/compose: load/components/compose/main.go load/components/compose/go.sum | $(VENV)/.bootstrap
	@command -v go > /dev/null || { echo "who judges compose files is written in Go: on Debian, apt-get install golang"; exit 1; }
	cd load/components/compose && go build -o $(CURDIR)/$@ .

$(VENV)/prometheus/.complete: | $(VENV)/.bootstrap
	@command -v apt-get dpkg >/dev/null || { echo 'promtool and amtool are taken from Debian; elsewhere put them on the path'; exit 1; }
	mkdir -p $(@D)
	$(SUDO) apt-get update -qq
	cd $(@D) && apt-get download -qq prometheus prometheus-alertmanager && for package in *.deb; do dpkg -x $$package . || exit 1; done && rm -f *.deb
	touch $@

$(PROTO)/.tools: $(VENV)/.bootstrap  # apart: it holds protobuf below 6
	test -x $(PROTO)/bin/python || $(UV) venv -q --python $(BIN)/python $(PROTO)
	$(UV) pip install -q --python $(PROTO)/bin/python $(STUBS)
	touch $@

lock: $(VENV)/.bootstrap  ## Resolve anew, for Linux and macOS, Python 3.11 and 3.12, with hashes
	mkdir -p build
	printf 'setuptools>=77\nuv>=0.5\n' | $(UV) pip compile -q - --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements/bootstrap.txt
	$(LOCK) --extra dev --extra components -o requirements/components.txt
	$(LOCK) --extra dev -c requirements/components.txt -o requirements/dev.txt
	$(LOCK) --extra serve -c requirements/components.txt -o requirements/serve.txt
	$(LOCK) --extra load -o requirements/load.txt
	printf 'torch; sys_platform == "never"\ntorchvision; sys_platform == "never"\ntimm; sys_platform == "never"\n' > build/no-torch.txt
	$(LOCK) --extra image-onnx --override build/no-torch.txt -c requirements/components.txt -o requirements/image-onnx.txt
	$(LOCK) --extra image-torch -c requirements/components.txt -o requirements/image-torch.txt

lock-rivals: $(VENV)/.bootstrap  ## Resolve what the benchmark compares with
	printf 'infinity-emb[torch,vision,server]==0.0.78\naiohttp\n' | $(UV) pip compile -q - --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --python-platform x86_64-unknown-linux-gnu -o requirements/rival-infinity.txt
	printf 'mlserver==1.7.1\nopen-clip-torch==3.3.0\n' | $(UV) pip compile -q - --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --python-platform x86_64-unknown-linux-gnu -o requirements/rival-mlserver.txt

lock-torch: $(VENV)/.bootstrap  ## requirements/image-torch.txt by the files of another index: make lock-torch TORCH_INDEX=URL
	$(LOCK) --extra image-torch --index $(TORCH_INDEX) -o requirements/image-torch.txt

proto: $(PROTO)/.tools  ## Generate the stubs from modelmora/proto/*.proto
	PATH="$(CURDIR)/$(PROTO)/bin:$$PATH" $(PROTO)/bin/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
		--mypy_out=quiet:. --mypy_grpc_out=quiet:. modelmora/proto/*.proto

train: setup  ## Train the bundled models anew
	$(BIN)/python -m training.shapes_clip.train --out registry/bundled/shapes-clip
	$(BIN)/python -m training.shapes_sam.train --out registry/bundled/shapes-sam

clean:
	rm -rf $(VENV) $(VENV)-load $(VENV)-infinity $(VENV)-mlserver $(PROTO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
