# The front door. `make demo` and `make check` work on a fresh Debian 12 with git and make.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

.PHONY: help build demo check interop bench deb fuzz tidy format clean dependencies

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

dependencies: ## install the Debian packages the build and the lab need
	@scripts/dependencies.sh build lab

build: dependencies ## the programs, in build/bin/
	@scripts/build.sh release

demo: build ## a managed profile in, real flows out over mutual TLS: the proof on one screen (DELIVERY=declaration: by declarations)
	@DELIVERY=$(or $(DELIVERY),profile) /usr/bin/python3 lab/demo.py

check: build ## unit tests (ASan+UBSan, TSan where threads meet), fuzzers for a few seconds, integration tests in namespaces
	@scripts/check.sh

interop: build ## against servers and programs that no one here wrote
	@scripts/interop.sh

bench: ## side by side with real peers; tables and drawing in build/bench
	@scripts/bench.sh

fuzz: ## every fuzzer for SECONDS (default 30)
	@scripts/fuzz.sh $(or $(SECONDS_EACH),30)

deb: build ## a Debian package in build/
	@packaging/build-deb.sh

tidy: ## clang-tidy over the sources
	@scripts/tidy.sh

format: ## clang-format over the sources
	@git ls-files '*.h' '*.cc' | xargs clang-format-19 -i

clean: ## remove build/
	@rm -rf build
