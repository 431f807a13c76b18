# What a person does with this repository. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help demo demo-fleet run test simulate mutants soak bench bench-fleet lint audit update-prices

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Bursar, a real Envoy and a sample LLM upstream, with budgets that refuse (CI=1: end by itself)
	@CI="$(CI)" python3 scripts/demo

demo-fleet: ## Two Bursars and two Envoys that share budgets in one PostgreSQL (CI=1: end by itself)
	@CI="$(CI)" python3 scripts/demo-fleet

run: ## Bursar alone with its defaults: gRPC on 127.0.0.1:9191, HTTP on 127.0.0.1:9192, SQLite in bursar.db
	cargo run -- serve

test: ## Everything that must pass before a change is taken: formatting, lints, tests, documentation
	@scripts/test

simulate: ## A simulated fleet in all weathers (SEEDS=600 FIRST_SEED=1)
	@scripts/simulate

mutants: ## Plants one bug after the other and sees that the simulated fleet finds each (takes twelve minutes)
	@scripts/mutants

soak: ## 10,000 mixed requests through a real Envoy, then the books must agree (a smaller one is among the tests)
	@scripts/tools
	SOAK_REQUESTS=10000 cargo test --test process soak

bench: ## The figures of the README
	cargo bench --bench '*'

bench-fleet: ## The figures of a fleet: simulated for 1 to 200 replicas, and on a real PostgreSQL
	@scripts/tools
	cargo bench --bench fleet
	cargo bench --bench postgres

lint: ## Formatting and lints only
	@scripts/test fmt clippy

audit: ## Licences, duplicates, advisories, unused dependencies and fuzz targets (builds its tools the first time)
	@scripts/audit

update-prices: ## The price tables anew from the releases that scripts/update-prices pins, and what changed
	@scripts/update-prices
