# Everything one does with this repository. `make` alone lists the targets.
#
#   PROFILE=dev        cargo profile of all our binaries
#   INSTALL=1          0: `make up` brings up the servers, but doesn't install the operator
#   KOCO_DEV_DIR=.dev  the dev cluster's state; each folder is a cluster of its own
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PROFILE ?= dev
INSTALL ?= 1
KOCO_DEV_DIR ?= .dev
export PROFILE KOCO_DEV_DIR
# What runs a command beside a PostgreSQL of its own, with STORE=postgresql.
POSTGRES = $(if $(filter postgresql,$(STORE)),deploy/dev/with-postgres)
# The API tests of the server. Of them one is skipped below: it is about a folder, which SQLite alone has.
SERVER_TESTS = archive:: events:: kodosumi:: panel:: plugin_archive::
override KOCO_DEV_DIR := $(abspath $(KOCO_DEV_DIR))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 20


.PHONY: up
up: deps tools image ## bring up Kubernetes, Temporal and the operator, on this machine
	@deploy/dev/cluster up
	@deploy/dev/load-image $(KOCO_DEV_DIR)/images/*.tar
	@[[ $(INSTALL) == 0 ]] || deploy/dev/install

.PHONY: down
down: ## end all of it, and remove its data
	@deploy/dev/cluster down

.PHONY: demo
demo: up ## run an agent job in it, and show what happens
	deploy/examples/demo.sh

.PHONY: load-image
load-image: ## put an image on the node: FILE=image.tar
	@deploy/dev/load-image "$(or $(FILE),$(error FILE=image.tar is missing))"


.PHONY: test
test: ## all the checks, in a cluster of their own that is taken down again
	@deploy/dev/test

.PHONY: lint
lint: ## formatting, spelling, clippy, shellcheck, actionlint, licences and sources of dependencies
	cargo fmt --check
	deploy/dev/spelling
	deploy/dev/lint-scripts
	deploy/dev/lint-workflows
	cargo clippy --all-targets -- -D warnings
	cargo clippy --no-default-features --bin kubectl-koco -- -D warnings # the plugin by itself
	deploy/dev/tools/cargo-deny check bans licenses sources

.PHONY: unit
unit: ## tests that need no server
	cargo test --lib --bins --test contract --test fuzz --test runner --test replay --test soak --test bench-jobs

.PHONY: fuzz
fuzz: export KOCO_FUZZ_SECONDS = $(or $(DURATION),60)
fuzz: ## each property a minute of random inputs; DURATION=seconds, THREADS=at a time, ARGS=filter
	cargo test --profile $(PROFILE) --test fuzz -- --nocapture --test-threads $(or $(THREADS),1) $(ARGS)
	cargo test --profile $(PROFILE) --lib fuzz -- --nocapture --test-threads $(or $(THREADS),1) $(ARGS)

.PHONY: workflow-test
workflow-test: tools ## tests of the workflow, on a Temporal server of their own
	tests/workflow/run $(ARGS)

.PHONY: database-test
database-test: deps ## tests of the database, on SQLite and on a PostgreSQL of their own; ARGS=filter
	tests/database/run $(ARGS)

.PHONY: api-test
api-test: tools ## after each change: tests against an API server and Temporal of their own, without a node; ARGS=filter, SLOW=1: all; STORE=postgresql: those of koco's server
	$(POSTGRES) tests/api/run $(if $(SLOW),--include-ignored --skip memory_beside_large_jobs) $(if $(POSTGRES),$(or $(ARGS),$(SERVER_TESTS)) --skip leaves_its_folder,$(ARGS))

.PHONY: bench-memory
bench-memory: tools ## peak memory of gateway and controller beside 500 open jobs of 100 KB; PROFILE=release
	tests/api/run --ignored --nocapture memory_beside_large_jobs

.PHONY: bench-jobs
bench-jobs: PROFILE = release
# Near its limit an API server collects garbage for each job: that would be the limit's cost, not the jobs'.
bench-jobs: export GOMEMLIMIT = $(if $(BACKLOG),12GiB,4GiB)
bench-jobs: tools ## what jobs cost, and how many a second, beside Kubernetes Jobs and bare Temporal (release build); JOBS=200 ROUNDS=2; BACKLOG=ended,open or REPLICAS=3: a ratio
	tests/api/run --bench jobs $(ARGS)

.PHONY: bench-fairness
bench-fairness: PROFILE = release
bench-fairness: export TEMPORAL_ARGUMENTS = --dynamic-config-value matching.enableFairness=true
bench-fairness: tools ## one job's start beside 5,000 of another namespace (release build); JOBS=5000
	tests/api/run --bench fairness $(ARGS)

.PHONY: bench-events
bench-events: PROFILE = release
bench-events: tools ## all that events and the archive are to reach, in one table (release build); PARTS="sqlite postgresql runner archive" EVENTS=400000 EXECUTIONS=1000000
	benches/events/run $(PARTS)

.PHONY: bench-runner
bench-runner: PROFILE = release
bench-runner: ## memory of a runner beside 20,000 lines a second, and how soon it pauses (release build)
	cargo test --profile $(PROFILE) --test runner -- --ignored --nocapture beside_many_lines

.PHONY: bench-idle
bench-idle: PROFILE = release
bench-idle: tools ## what 10,000 agents cost that run and do nothing else, and a restart beside them (release build); JOBS=10000 INPUTS=KiB
	tests/api/run --bench idle $(ARGS)

.PHONY: bench-archive
bench-archive: PROFILE = release
bench-archive: deps ## lists and searches of an archive of a million executions, on SQLite and PostgreSQL (release build); EXECUTIONS=10000 ROUNDS=200
	benches/archive/run $(ARGS)

.PHONY: pause-endurance
pause-endurance: tools ## one workflow paused and resumed 20,000 times (25 min); KOCO_PAUSES=number
	SUGGEST_CONTINUE_AS_NEW=4096 tests/workflow/run --ignored --nocapture all_the_time

.PHONY: record-histories
record-histories: tools ## record tests/histories anew: only what running workflows needn't survive
	KOCO_RECORD_HISTORIES=1 tests/workflow/run
	cargo test --test replay

.PHONY: readme-test
readme-test: ## README.md's commands, in their order, in a cluster that is up with INSTALL=0
	tests/readme/run

.PHONY: postgresql-test
postgresql-test: ## koco's server with PostgreSQL, two replicas of it, by the chart, in the cluster that is up
	IN_CLUSTER=1 deploy/dev/with-postgres deploy/dev/server-postgresql

.PHONY: upgrade-test
upgrade-test: ## upgrades from another commit, and back, under jobs in every state, in a cluster that is up with INSTALL=0; FROM=COMMIT
	tests/upgrade/run "$(or $(FROM),$(error FROM=COMMIT is missing))"

.PHONY: python-test
python-test: deps ## checks and tests of the Python package and its examples; ARGS=filter, PYTHON=python3.13
	@python/tests/run $(if $(ARGS),-k "$(ARGS)")

.PHONY: typescript-test
typescript-test: deps ## the TypeScript example, built and run with a fake model
	cd deploy/examples/typescript && npm ci --silent --no-audit --no-fund && npm run --silent build && npm test --silent

.PHONY: panel-test
panel-test: ## the server's pages in Chromium, with axe-core, and their pictures
	@deploy/dev/deps $$(command -v chromium >/dev/null || echo chromium)
	@tests/panel/run

.PHONY: chart-test
chart-test: tools ## tests of the Helm chart
	PATH="$(KOCO_DEV_DIR)/tools:$$PATH" charts/koco/tests/run

.PHONY: gitops-test
gitops-test: ## how kstatus, Argo CD and Flux read AgentJobs, by their own libraries; needs only Go
	cd tests/gitops && go test -count=1 $(ARGS) ./... # it reads files that Go's cache of results doesn't know

.PHONY: cluster-test
cluster-test: ## tests against the cluster that is up; ARGS go to the test binary
	cargo test --test cluster --no-run
	deploy/dev/with-postgres deploy/dev/without-operator deploy/dev/enter cargo test --offline --test cluster -- --test-threads 4 $(ARGS)

.PHONY: soak
soak: export DURATION ?= 300
soak: export SEED ?= 1
soak: ## jobs of both modes, in the cluster that is up, while all is killed, frozen and cut off: DURATION=seconds SEED=number
	@deploy/dev/cluster up # an interrupted one leaves servers down
	cargo test --test soak --no-run
	deploy/dev/without-operator deploy/dev/enter cargo test --offline --test soak -- --include-ignored --nocapture soak

.PHONY: events-torture
events-torture: export EVENTS ?= 1000000
events-torture: export SEED ?= 1
events-torture: ## numbered events, in the cluster that is up, while all on their way is killed, frozen and cut off: EVENTS=number SEED=number, THREADS=2: both databases at the same time
	cargo test --test cluster --no-run
	deploy/dev/with-postgres deploy/dev/without-operator deploy/dev/enter cargo test --offline --test cluster -- --test-threads $(or $(THREADS),1) --nocapture torture::

.PHONY: bench-control
bench-control: PROFILE = release
bench-control: image ## how fast pause, resume and cancel take effect, in the cluster that is up (release build)
	cargo build --profile $(PROFILE) --example bench-control
	deploy/dev/load-image $(KOCO_DEV_DIR)/images/koco.tar $(KOCO_DEV_DIR)/images/koco-test-agent.tar
	deploy/dev/install --set server.enabled=false
	deploy/dev/enter cargo run --offline --profile $(PROFILE) --example bench-control -- $(ARGS)

.PHONY: bench-kubelet
bench-kubelet: PROFILE = release
bench-kubelet: image ## what jobs cost on a real kubelet beside Kubernetes Jobs, in the cluster that is up (release build); JOBS=40 ROUNDS=5
	cargo build --profile $(PROFILE) --example bench-kubelet
	deploy/dev/load-image $(KOCO_DEV_DIR)/images/koco.tar $(KOCO_DEV_DIR)/images/koco-test-agent.tar
	deploy/dev/install --set server.enabled=false
	deploy/dev/enter cargo run --offline --profile $(PROFILE) --example bench-kubelet -- $(ARGS)


.PHONY: deps
deps: ## install the Debian packages that are missing
	@deploy/dev/deps

.PHONY: tools
tools: deps ## build the pinned servers and clients, once a machine
	@deploy/dev/tools/build

.PHONY: image
image: ## build the container images
	@deploy/dev/images/build

.PHONY: release
release: deps ## what a release has, in dist/release-VERSION: VERSION=1.2.3; see docs/releases.md
	@deploy/release/build "$(or $(VERSION),$(error VERSION=1.2.3 is missing))" $(PART)

.PHONY: docs
docs: ## make a book of the documents: target/docs/book/index.html
	@deploy/dev/docs

.PHONY: plugin
plugin: PROFILE = release
plugin: ## build the kubectl plugin by itself, without the operator: dist/kubectl-koco
	cargo build --profile $(PROFILE) --no-default-features --bin kubectl-koco
	@mkdir -p dist
	@source deploy/dev/lib.sh && install "$$(cargo_out)/kubectl-koco" dist/

.PHONY: man
man: ## write the plugin's manual pages to dist/man/man1: MANPATH=dist/man: man kubectl-koco-pause
	cargo run --quiet --bin koco -- man dist/man/man1

.PHONY: crd
crd: ## generate crds/ from the Rust types, a file for each
	mkdir -p crds
	for kind in $$(cargo run --quiet --bin koco -- crd --list); do \
	  cargo run --quiet --bin koco -- crd "$$kind" >crds/.new; \
	  mv crds/.new "crds/$$kind.kodosumi.io.yaml"; \
	  cp "crds/$$kind.kodosumi.io.yaml" charts/koco/files/; \
	done

.PHONY: openapi
openapi: ## generate docs/openapi.yaml from the Rust types
	cargo run --quiet --bin koco -- openapi >docs/.new
	mv docs/.new docs/openapi.yaml

.PHONY: clean
clean: ## take the clusters down, and remove all that was built here
	deploy/dev/cluster down
	KOCO_DEV_DIR=.dev-test deploy/dev/cluster down
	cargo clean
	rm -rf $(KOCO_DEV_DIR) .dev-test .dev-api*
