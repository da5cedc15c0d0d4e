"""Time CNI plugins where they run: inside the lab, as a runtime executes them.

Reads one JSON object from standard input: `chain`, a list of [program, configuration]; `rounds`;
`live`, how many attachments there are already; `together`, how many are made at once. Prints one with
the seconds of each ADD and each DEL of the whole chain, alone and together. A program called netavark
is spoken to as podman does: `setup` and `teardown`, the addresses chosen by the caller.
"""

import ipaddress
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PORT = 20000
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
Chain = list[tuple[str, dict[str, Any]]]


def execute(program: str, command: str, number: int, config: dict[str, Any]) -> bytes:
    """One execution. posix_spawn and memory files: Popen would cost as much as the fastest plugin."""
    words = [program]
    if program.endswith("/netavark"):
        verb = "setup" if command == "ADD" else "teardown"
        words += ["--config", "/run/netavark", verb, f"/run/netns/b{number}"]
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"bench{number}",
        "CNI_NETNS": f"/run/netns/b{number}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/usr/lib/cni",
        "PATH": PATH,
    }
    given, written = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.write(given, json.dumps(config).encode())
        os.lseek(given, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, written, 1)]
        _, status = os.waitpid(os.posix_spawn(program, words, variables, file_actions=actions), 0)
        output = os.pread(written, 1 << 20, 0)
    finally:
        os.close(given)
        os.close(written)
    if status:
        sys.exit(f"{program} {command} {number}: {output.decode()[-500:]}")
    return output


def configured(chain: Chain, number: int) -> Chain:
    """The chain for one container, which publishes a port of its own."""
    if "network_info" in chain[0][1]:
        [(program, config)] = chain
        return [(program, {**config, **podman(config, number)})]
    ports = [{"hostPort": PORT + number, "containerPort": 80, "protocol": "tcp"}]
    return [(program, {**config, "runtimeConfig": {"portMappings": ports}}) for program, config in chain]


def podman(config: dict[str, Any], number: int) -> dict[str, object]:
    """What podman tells netavark of one container: addresses too, which it has chosen itself."""
    subnets = [ipaddress.ip_network(each["subnet"]) for each in config["network_info"]["bench"]["subnets"]]
    addresses = [str(subnet[number + 2]) for subnet in subnets]
    port = {"container_port": 80, "host_port": PORT + number, "host_ip": "", "protocol": "tcp", "range": 1}
    return {
        "container_id": f"{number:064x}",
        "container_name": f"bench{number}",
        "port_mappings": [port],
        "networks": {"bench": {"interface_name": "eth0", "static_ips": addresses}},
    }


def add(chain: Chain, number: int) -> float:
    began = time.perf_counter()
    result: object = None
    for program, config in configured(chain, number):
        whole = {**config, "prevResult": result} if result else config
        result = json.loads(execute(program, "ADD", number, whole))
    return time.perf_counter() - began


def delete(chain: Chain, number: int) -> float:
    began = time.perf_counter()
    for program, config in reversed(configured(chain, number)):
        execute(program, "DEL", number, config)
    return time.perf_counter() - began


def main() -> None:
    asked = json.load(sys.stdin)
    chain = [(program, config) for program, config in asked["chain"]]
    rounds, live, together = asked["rounds"], asked["live"], asked["together"]
    total = live + max(rounds, together)
    Path("/run/netavark").mkdir(exist_ok=True)
    batch = "".join(f"netns add b{number}\n" for number in range(total))
    subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
    with ThreadPoolExecutor(together) as pool:
        list(pool.map(lambda number: add(chain, number), range(live)))
        alone = range(live, live + rounds)
        adds = [add(chain, number) for number in alone]
        deletes = [delete(chain, number) for number in alone]
        crowd = range(live, live + together)
        crowd_adds = list(pool.map(lambda number: add(chain, number), crowd))
        crowd_deletes = list(pool.map(lambda number: delete(chain, number), crowd))
        list(pool.map(lambda number: delete(chain, number), range(live)))
    batch = "".join(f"netns del b{number}\n" for number in range(total))
    subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
    found = {"add": adds, "del": deletes, "add together": crowd_adds, "del together": crowd_deletes}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
