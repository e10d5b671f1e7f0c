# Two commands: `make run` and `make test`. Both install what is missing (as
# root, by apt-get) or say what to install, and may be run again at any time.

.PHONY: run build test check bench

ARGS ?=

run: build
	exec ./target/dist/skiff server $(ARGS)

build:
	cargo xtask setup
	cargo xtask dist

test:
	cargo xtask setup --tests
	cargo xtask test

check:
	cargo fmt --all --check
	cargo xtask tidy
	cargo clippy --workspace --all-targets -- -D warnings
