# Thin on purpose: every target calls cargo and one script, and sets up what it needs by itself.
CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto
TARGET = $(or $(CARGO_TARGET_DIR),target)
# The agent as gateways get it: small, and with its own C library, so that it runs beside any. The target is named so that only the agent
# itself is linked so, and not what runs at build time.
MACHINE = $(shell rustc -vV | sed -n 's/^host: //p')
EDGE = --profile edge --target $(MACHINE) --config 'target.$(MACHINE).rustflags=["-Ctarget-feature=+crt-static"]'

.PHONY: demo test bench lint setup fmt

## A hub, a gateway and a simulated press on this machine, without root; Ctrl-C leaves nothing behind.
demo:
	@$(CARGO) build --quiet --profile quick-release -p cloudhub -p edgecore -p kurator --bins
	@$(TARGET)/quick-release/kurator demo

## Every test, the ones with real processes included.
test: setup
	$(CARGO) build --workspace --all-targets
	$(CARGO) nextest run --workspace --no-fail-fast
	$(CARGO) nextest run -p device-models -p federation --all-features
	$(CARGO) test --workspace --doc --quiet

## The figures, printed as one table and stored in tests/benches/RESULTS.md.
bench:
	@tests/setup.sh bench
	$(CARGO) build --release -p cloudhub --bins
	$(CARGO) build $(EDGE) -p edgecore --bins
	$(CARGO) build --profile quick-release -p kurator -p tests --bins
	install -D -t $(TARGET)/bench $(TARGET)/release/cloudhub $(TARGET)/$(MACHINE)/edge/edgecore $(TARGET)/quick-release/kurator $(TARGET)/quick-release/bench
	$(TARGET)/bench/bench

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p device-models -p federation --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet --document-private-items

setup:
	@tests/setup.sh
