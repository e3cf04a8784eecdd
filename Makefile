# What one does with this project. `make` lists it.
#
# CARGO_TARGET_DIR  where cargo builds (default ~/.cache/stead/target, as a build takes gigabytes)
# KUBECTL           the kubectl that the demo uses (default kubectl)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stead
export CARGO_TARGET_DIR ?= $(CACHE)/target
KUBECTL ?= kubectl
export KUBECTL

# Where cargo leaves programs, since .cargo/config.toml names a target.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
PROGRAMS = $(CARGO_TARGET_DIR)/$(HOST)/release

# What the end-to-end tests call, and the Debian package it is in.
PACKAGES := busybox:busybox-static ip:iproute2 nft:nftables curl:curl

.PHONY: help
help: ## list what can be done
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1|/p' Makefile | while IFS='|' read -r target what; do
	    printf '  make %-12s %s\n' "$$target" "$$what"
	done

.PHONY: build
build: ## build stead, and the example's app: target/release/stead
	@cargo build --release --package stead --package visits
	mkdir -p target/release
	for program in stead visits; do
	    [ "$(PROGRAMS)/$$program" -ef "target/release/$$program" ] ||
	        ln -sfn "$(abspath $(PROGRAMS))/$$program" "target/release/$$program"
	done

.PHONY: packages
packages: ## install the Debian packages that the demo and the tests need, if they are missing
	@missing=()
	for pair in $(PACKAGES); do
	    PATH=$$PATH:/usr/sbin:/sbin command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}")
	done
	# Another busybox may need libraries that images lack.
	if [ -e /bin/busybox ] && [[ $$(ldd /bin/busybox 2>&1 || true) != *'not a dynamic'* ]]; then
	    missing+=(busybox-static)
	fi
	if [ $${#missing[@]} -gt 0 ]; then
	    echo "installing $${missing[*]}"
	    [ "$$(id -u)" = 0 ] || { echo "not root: install them yourself: apt-get install $${missing[*]}" >&2; exit 1; }
	    command -v apt-get >/dev/null || { echo "no apt-get here: install them yourself" >&2; exit 1; }
	    export DEBIAN_FRONTEND=noninteractive
	    apt-get install -y -q "$${missing[@]}" ||
	        { apt-get update -q && apt-get install -y -q "$${missing[@]}"; }
	fi
	command -v "$(KUBECTL)" >/dev/null || {
	    echo "There is no kubectl, and Debian 12 has no package of it. Get one as" >&2
	    echo "https://kubernetes.io/docs/tasks/tools/ says, or say where it is: make KUBECTL=/path/to/kubectl" >&2
	}

target/visits.tar: build tools/image.sh examples/visits/image.sh
	@examples/visits/image.sh $@

.PHONY: demo
demo: packages build target/visits.tar ## start a cluster and show what it does; it is left running
	@examples/visits/demo.sh

.PHONY: clean-demo
clean-demo: build ## remove the demo's cluster and all its data
	@target/release/stead delete --yes

.PHONY: lint
lint: ## check the format, and for what is suspicious
	@echo '===== make lint'
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

.PHONY: unit
unit: packages registry ## the tests of each part
	@echo '===== make unit'
	cargo test --release --workspace --exclude stead-tests

.PHONY: e2e
e2e: packages build registry ## the tests of the whole, through kubectl
	@echo '===== make e2e'
	cargo test --release --workspace --test harness --test e2e

# Of Go's modules. The version's name is part of the file's, so that another one is fetched.
HELM_VERSION := v3.16.4
HELM4_VERSION := v4.3.1
export STEAD_HELM ?= $(CACHE)/bin/helm-$(HELM_VERSION)
export STEAD_HELM4 ?= $(CACHE)/bin/helm-$(HELM4_VERSION)

.PHONY: helm helm4
helm: ## install Helm, which the labs use, into ~/.cache/stead/bin
helm: HELM = $(STEAD_HELM)
helm: MODULE = helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
helm4: HELM = $(STEAD_HELM4)
helm4: MODULE = helm.sh/helm/v4/cmd/helm@$(HELM4_VERSION)
helm helm4:
	@[ ! -x "$(HELM)" ] || exit 0
	command -v go >/dev/null || {
	    echo "There is neither Helm nor Go to make it with: install Debian's golang, or say where a Helm is:" >&2
	    echo "make $(if $(filter helm4,$@),STEAD_HELM4,STEAD_HELM)=/path/to/helm" >&2
	    exit 1
	}
	echo "installing $(MODULE)"
	bin=$$(mktemp --directory)
	trap 'rm -rf "$$bin"' EXIT
	CGO_ENABLED=0 GOBIN=$$bin go install -trimpath -ldflags='-s -w' "$(MODULE)"
	install -D "$$bin/helm" "$(HELM)"

export STEAD_DOCKER_REGISTRY ?= $(CACHE)/bin/docker-registry

.PHONY: registry
registry: ## fetch Debian's docker-registry, which tests pull images from, into ~/.cache/stead/bin; no service begins
	@[ ! -x "$(STEAD_DOCKER_REGISTRY)" ] || exit 0
	dir=$$(mktemp --directory)
	trap 'rm -rf "$$dir"' EXIT
	cd "$$dir"
	fetch() { apt-get download -qq -o APT::Sandbox::User=root docker-registry; }
	if fetch 2>/dev/null || { apt-get update -qq && fetch; }; then
	    dpkg-deb --fsys-tarfile docker-registry_*.deb | tar --extract ./usr/bin/docker-registry
	    install -D usr/bin/docker-registry "$(STEAD_DOCKER_REGISTRY)"
	else
	    echo "There is no docker-registry: the tests of pulling images are skipped" >&2
	fi

.PHONY: labs
# One looks at a page in a browser.
labs: PACKAGES += chromium:chromium
labs: packages build helm ## the examples and the tutorial, as they stand, through Helm and kubectl
	@echo '===== make labs'
	examples/images.sh app-python app-php busybox openbao agent-injector >/dev/null
	go -C examples/app-python-vault/injector test ./...
	cargo test --release --workspace --test labs

export STEAD_CLIENTS ?= $(CACHE)/clients

.PHONY: clients
clients: ## install other people's clients, and build the tests that use them, into ~/.cache/stead/clients
	@for client in go python javascript kube-rs; do
	    echo "preparing $$client"
	    tests/clients/$$client/prepare.sh "$(STEAD_CLIENTS)/$$client"
	done

.PHONY: test-clients
test-clients: PACKAGES += python3:python3-venv node:nodejs npm:npm
test-clients: packages build helm helm4 clients ## clients of Go, Python, JavaScript and Rust, and Helm, as they are
	@echo '===== make test-clients'
	cargo test --release --workspace --test clients

.PHONY: bench
bench: packages build ## measure speed and memory; BENCH has options (--trace, --runs N, --many)
	@cargo run --release --package stead-bench -- --json target/bench.json $(BENCH)

FUZZ ?= 600

.PHONY: fuzz
fuzz: ## give what reads others' input arbitrary bytes, FUZZ=600 seconds each; "make unit" does so for seconds
	@STEAD_FUZZ_SECONDS=$(FUZZ) STEAD_FUZZ_SEED=$$(date +%s) cargo test --release --workspace --test short

.PHONY: test
test: lint unit e2e ## all of these

ROUNDS ?= 500
KILLS ?= 2000
SIMULATE ?= 600
CROWD ?= 120

.PHONY: soak
soak: packages build ## crashes and faults, for longer (ROUNDS=500 kills of the server, KILLS=2000 of the store, SIMULATE=600 seconds of StatefulSets, CROWD=120 seconds of 200 clients)
	@export STEAD_CHURN_ROUNDS=$(ROUNDS) STEAD_KILL_ROUNDS=$(KILLS) STEAD_CROWD_SECONDS=$(CROWD)
	# Other seeds each time; one that fails is named.
	STEAD_SIM_SECONDS=$(SIMULATE) STEAD_SIM_SEED=$$(date +%s)000 \
	    cargo test --release --workspace --exclude stead-tests simulation::seeds -- --nocapture
	cargo test --release --workspace --test kill --test containers
	for tests in crash: disks: faults: servers:; do
	    cargo test --release --workspace --test e2e -- "$$tests"
	done
