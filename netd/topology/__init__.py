"""Topology files: a Compose file, plus what Compose cannot say under `x-netd`.

yaml12      text -> plain values, by the rules of YAML 1.2
interpolate ${VAR:-default} in values
compose     plain values -> typed, checked `File`
project     `File` -> the networks and containers that must exist (pure)
plan        (must exist, exists) -> ordered steps (pure)
up          carries the steps out through the API
check, graph, schema   what else can be done with a file
"""
