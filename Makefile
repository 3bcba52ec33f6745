SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak bench cross lint vuln

# Every module is built as its users get it, and without stamping, which needs a repository that git trusts.
export GOWORK := off
export GOFLAGS := $(shell go env GOFLAGS) -buildvcs=false

help: ## show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|'

demo: ## run the storefront with servers of its own (ADDR, ADMIN_ADDR, CONTROL, WORKERS, PRODUCTS, …)
	@scripts/setup servers
	@echo "building the storefront (the first time: a minute or two)"
	@cd examples/storefront && go build -o ../../.bin/ . ./demo
	@exec .bin/demo

test: ## what CI runs: installs what is missing, then vet, staticcheck, import rules, all tests with -race
	@scripts/test

soak: ## the full figures, kept in bench/SOAK.md (SOAK=Regexp runs some of them)
	@scripts/test soak

bench: ## run the benchmarks COUNT (6) times and summarise them
	@scripts/test bench

cross: ## build for macOS, Windows and FreeBSD
	@scripts/test cross

lint: ## golangci-lint (built from source the first time: minutes)
	@scripts/test lint

vuln: ## govulncheck (asks its online database)
	@scripts/test vuln
