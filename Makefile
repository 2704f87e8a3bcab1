.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
# Where it is set, as in many a container, each process would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s $$'\t'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group test --group lint maturin
	touch $@

.PHONY: install
install: .venv/installed ## Make the virtual environment

.PHONY: build
build: install ## Build and install sserpent, native if there is a Rust toolchain
	$(BIN)/python tools/build.py

.PHONY: demo
demo: ## Stream the examples through a real server, and show the speed; installs only what it needs
	@$(PYTHON) tools/demo.py

# Most tests wait for servers, so more workers than cores pay. Hypothesis looks longer in `make fuzz`
# and in CI.
WORKERS ?= 4
TOGETHER = -n $(WORKERS) --dist worksteal
PYTEST = SSERPENT_EXAMPLES=$${SSERPENT_EXAMPLES:-$(if $(CI),100,25)} $(BIN)/python -m pytest -q

.PHONY: test
test: build ## Run every test, over both backends, in about half an hour; WORKERS=4 at a time
	@echo "About half an hour on two cores: the Rust tests, every test on the compiled core, then on"
	@echo "the pure one those that depend on it. Servers, proxies and Redis are used where installed."
	@if command -v cargo >/dev/null; then cargo test --quiet --locked --workspace; \
	else echo "no cargo: the Rust tests do not run"; fi
	$(PYTEST) $(TOGETHER) -m "not alone"
	$(PYTEST) -m alone
	SSERPENT_PURE=1 $(PYTEST) $(TOGETHER) -m "not alone and not once"
	SSERPENT_PURE=1 $(PYTEST) -m "alone and not once"

.PHONY: test-compat
test-compat: build ## Run the tests of sse-starlette's sdist on sserpent.compat.sse_starlette
	$(BIN)/python tools/sse_starlette_tests.py

NEWER ?= python3.14
.PHONY: test-newer-python
test-newer-python: ## Test on a Python of Debian sid, in a root of its own: NEWER=python3.15
	PYTHON=$(NEWER) tools/newer_python.sh

TESTS ?=
.PHONY: test-aarch64
test-aarch64: .venv/installed-release ## Run the wheel for aarch64 under qemu: TESTS=tests/core/test_json.py
	tools/aarch64.sh $(TESTS)

# Where a nightly toolchain is, also with libFuzzer, whose cargo-fuzz is built on first use; new
# inputs go to fuzz/target, and what is worth keeping is moved to fuzz/corpus by hand.
FUZZ_SECONDS ?= 30
.PHONY: fuzz
fuzz: build ## Look for surprises for a minute or two, in the framing and the whole way
	SSERPENT_EXAMPLES=$${SSERPENT_EXAMPLES:-300} $(BIN)/python -m pytest -q $(TOGETHER) -m hypothesis
	@command -v cargo >/dev/null || { echo "no cargo: the framing in Rust is not fuzzed"; exit 0; }; \
	set -e; cargo test --quiet --locked --manifest-path fuzz/Cargo.toml; \
	cargo +nightly --version >/dev/null 2>&1 || { echo "no nightly: no libFuzzer"; exit 0; }; \
	export PATH="$$PWD/fuzz/target/bin:$$PATH"; \
	command -v cargo-fuzz >/dev/null || cargo install --quiet --root fuzz/target cargo-fuzz; \
	for target in frame parse; do \
		mkdir -p fuzz/target/found/$$target; \
		cargo +nightly fuzz run $$target fuzz/target/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=400 -dict=fuzz/sse.dict -verbosity=0 -print_final_stats=1; \
	done

# Without a seed it takes one and prints it.
SOAK_SECONDS ?= 60
SOAK_SEED ?=
.PHONY: soak
soak: build ## Kill, cut and stall a cluster, and check what its clients saw: SOAK_SECONDS=60 SOAK_SEED=7
	$(BIN)/python tests/soak/soak.py --seconds $(SOAK_SECONDS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

# One more is 40 times as many.
WORLDS ?= 3
.PHONY: explore
explore: build ## Play every small world up to a cost (half an hour): WORLDS=3
	SSERPENT_WORLDS=$(WORLDS) $(BIN)/python -m pytest -q -n auto --dist worksteal tests/delivery/test_small_worlds.py

.PHONY: lint
lint: install lint-workflows ## Check format and style
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check
	$(BIN)/ruff check

.PHONY: format
format: install ## Format everything
	cargo fmt --all
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

.PHONY: typecheck
typecheck: build ## Check types
	$(BIN)/mypy
	$(BIN)/python tools/typed_pages.py
	$(BIN)/pyright

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

.PHONY: bench
bench: build .venv/installed-bench ## Run every benchmark (half an hour), write RESULTS.md, plot and README
	$(BIN)/python -m benches.run

.PHONY: bench-quick
bench-quick: build .venv/installed-bench ## Run the core of the benchmarks (a minute)
	$(BIN)/python -m benches.run quick

.PHONY: bench-calls
bench-calls: build .venv/installed-bench ## Time calls with pytest-benchmark, and try other decoders; OPTIONS="-k push --benchmark-autosave"
	$(BIN)/python -m pytest -q benches $(OPTIONS)

.PHONY: bench-compare
bench-compare: build .venv/installed-bench ## Fail if sserpent takes more than in the saved results
	$(BIN)/python -m benches.run compare

.PHONY: dist
dist: install ## Build what is published: sdist, native wheel and pure wheel, into dist/
	rm -rf dist
	$(BIN)/python tools/dist.py dist

.venv/installed-release: .venv/installed
	$(BIN)/python -m pip install --quiet --group release
	touch $@

.PHONY: release-check
release-check: .venv/installed-release ## Rehearse a release: build what can be built here into dist/, and look at each file
	rm -rf dist
	$(BIN)/python tools/release_check.py dist

.venv/installed-nox: .venv/installed
	$(BIN)/python -m pip install --quiet --group nox
	touch $@

.PHONY: test-matrix
test-matrix: dist .venv/installed-nox ## Test the releases of FastAPI, or some: FASTAPI="0.135.0 newest"
	$(BIN)/nox

RUST_VERSION = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

.PHONY: check-oldest-rust
check-oldest-rust: ## Compile with the oldest Rust that Cargo.toml promises
	rustup toolchain install --profile minimal $(RUST_VERSION)
	cargo +$(RUST_VERSION) check --locked --workspace

.PHONY: lint-workflows
lint-workflows: install ## Check the GitHub workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --no-progress .github/workflows

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

.PHONY: docs
docs: .venv/installed-docs ## Build the documentation into site/, and fail on a warning or a dead link
	$(BIN)/python tools/docs.py

.PHONY: test-site
test-site: build .venv/installed-docs ## Test the documentation as a phone shows it, and its search
	$(BIN)/python -m pytest -q tests/project/test_site.py

.PHONY: docs-serve
docs-serve: .venv/installed-docs ## Show the documentation at http://localhost:8000, and each change of it
	$(BIN)/zensical serve

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf .venv .venv-demo dist site .cache target fuzz/target python/sserpent/_core/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .nox .newer-python .aarch64
