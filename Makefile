# Every target prepares what it needs: Debian packages that are missing, and .venv with pinned
# dependencies. None touches the network of the machine it runs on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# How many tests run at once: more than there are processors, and what is timed is late.
JOBS ?= $(shell nproc)

# netd itself needs the two libraries; tests and demo look at the kernel with the usual tools.
PACKAGES := libnftables1 libseccomp2
TOOLS := bind9-dnsutils busybox-static conntrack containernetworking-plugins curl etcd-client etcd-server iproute2 iptables iputils-ping libpcap0.8 nftables openssl procps python3 strace util-linux wireguard-go
PYTHON_PACKAGES := $(if $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && echo yes),,python3-venv)

.PHONY: help venv demo demo-overlay test lint unit torture soak bench cni-conformance proto lock clean

help:
	@echo 'make venv    system packages, .venv, and the command at .venv/bin/netd'
	@echo 'make demo    the five-minute tour, in namespaces of its own'
	@echo 'make demo-overlay   two hosts, one network, and a host that dies and comes back'
	@echo 'make test    lint, types, import rules and all tests'
	@echo 'make torture the tests that take long: fuzzing, 1,000 endpoints, 1,000 flushes'
	@echo 'make soak    churn, damage and probers together: make soak MINUTES=10 SEED=n'
	@echo 'make lint    ruff and mypy only'
	@echo 'make unit    the tests that need no root'
	@echo 'make bench   netd beside dockerd, one table of figures'
	@echo 'make cni-conformance PLUGIN=/usr/lib/cni/bridge   judge any CNI plugin, clause by clause'
	@echo 'make proto   generate the protobuf code from netd/api/netd.proto and netd/cluster/etcd.proto'
	@echo 'make lock    pin the dependencies that are installed now'
	@echo 'make clean   remove what the targets above made'

venv: $(VENV)/.ready $(if $(shell command -v cc),cni/netd-cni)
$(VENV)/.ready: pyproject.toml .ci/constraints.txt .ci/venv .ci/packages Makefile
	.ci/packages $(PACKAGES) $(TOOLS) $(PYTHON_PACKAGES)
	.ci/venv $(VENV) $(PYTHON)
	@touch $@

# The CNI entrypoint for hosts without Python; where no compiler is, cni/netd_cni/main.py serves.
cni/netd-cni: cni/shim.c
	cc -O2 -s -static -o $@ $< || cc -O2 -s -o $@ $< # the latter where libc comes without its archive

demo: venv
	$(BIN)/python -m tests.demo

demo-overlay: venv
	$(BIN)/python -m tests.demo_overlay

test: lint
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

torture: venv
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m slow $(ARGS)

soak: venv
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: venv
	$(BIN)/pytest tests/unit tests/golden $(ARGS)

bench: venv
	-.ci/docker build/docker
	-.ci/packages dnsperf aardvark-dns netavark gcc libc6-dev mininet bridge-utils
	$(BIN)/python -m tests.bench $(ARGS)

cni-conformance: venv
	$(BIN)/python -m tests.conformance $(PLUGIN) $(ARGS)

proto: venv
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. netd/api/netd.proto
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. netd/cluster/etcd.proto

lock: venv
	{ head -1 .ci/constraints.txt; $(BIN)/pip freeze --exclude-editable; } > .ci/constraints.new
	mv .ci/constraints.new .ci/constraints.txt

clean:
	rm -rf $(VENV) cni/netd-cni build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find netd cni dns tests -name __pycache__ -type d -prune -exec rm -rf {} +
