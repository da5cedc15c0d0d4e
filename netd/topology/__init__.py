"""Topology files: a Compose file, plus what Compose cannot say under `x-netd`.

yaml12      text -> plain values, by the rules of YAML 1.2
interpolate ${VAR:-default} in values
compose     plain values -> typed, checked `File`
values      short forms -> their one meaning
networks, services, project   `File` -> the networks and containers that must exist (pure)
plan        (must exist, exists) -> what must be done (pure)
up, health  carries it out through the API
check, graph, schema   what else can be done with a file

For programs::

    project = load("topologies/three-tier.yaml", project="test-7")
    client = netd.api.client.connect("/run/netd/netd.sock")
    up(client, project)
    project.container("web").name       # what the daemon calls it
    project.networks["front"].name
    down(client, project)
"""

from netd.topology.project import Project, load
from netd.topology.up import down, up

__all__ = ["Project", "down", "load", "up"]
