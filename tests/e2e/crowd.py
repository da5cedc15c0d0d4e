"""Many attachments without a process each, made as a CNI runtime makes them; runs inside the lab.

    crowd.py up COUNT [NETWORK FIRST]  namespaces crowd0, crowd1, … each with one published port; or, from
                                       crowdFIRST on, in a network that there is, without a port
    crowd.py down COUNT [NETWORK FIRST]    take them away again
    crowd.py churn CYCLES AT_ONCE SEED attach and detach over and over, AT_ONCE at a time, in namespaces
                                       of their own and a network beside that of `up`, whose bridge may be
                                       full; a tenth of them detach twice, or attach in vain first
    crowd.py generation                how often the nft rules of this namespace have been changed

Each prints JSON: the seconds that each attachment took, in the order in which they ended. Standard
library only.
"""

import array
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

PORT, CHURN_PORT = 20000, 40000
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "crowd",
    "type": "netd",
    "subnets": ["10.60.0.0/16", "fd00:60::/64"],
}


def call(command: str, name: str, port: int) -> bytes:
    """One CNI call by the frame of `cni/netd_cni/main.py`; the output. Raises `OSError` for a refusal."""
    path = f"/run/netns/{name}"
    variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": name, "CNI_NETNS": path, "CNI_IFNAME": "eth0"}
    mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
    config = CONFIG if "network" in CONFIG else {**CONFIG, "runtimeConfig": {"portMappings": [mapping]}}
    body = "".join(f"{key}={value}\0" for key, value in variables.items()) + "\0" + json.dumps(config)
    namespace = os.open(path, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect("/run/netd/cni.sock")
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [namespace]))]
            daemon.sendmsg([b"NCN1", struct.pack(">I", len(body)), body.encode()], rights)
            answer = daemon.makefile("rb").read()
    finally:
        os.close(namespace)
    status, output = int.from_bytes(answer[4:8], "big"), answer[12:]
    if status:
        raise OSError(output.decode())
    return output


def add(name: str, port: int) -> float:
    began = time.perf_counter()
    call("ADD", name, port)
    return time.perf_counter() - began


def namespaces(verb: str, names: list[str]) -> None:
    batch = "".join(f"netns {verb} {name}\n" for name in names)
    subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)


def crowd(count: str, network: str, first: str) -> list[str]:
    """Their names; what they join is `CONFIG` from now on."""
    if network:
        del CONFIG["subnets"]
        CONFIG["network"] = network
    return [f"crowd{number}" for number in range(int(first), int(first) + int(count))]


def up(count: str, network: str = "", first: str = "0") -> list[float]:
    names = crowd(count, network, first)
    namespaces("add", names)
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(add, names, range(PORT, PORT + len(names))))


def down(count: str, network: str = "", first: str = "0") -> list[float]:
    names = crowd(count, network, first)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: call("DEL", name, PORT), names))
    namespaces("del", names)
    return []


def check_refused(name: str) -> None:
    try:
        call("ADD", name, PORT)
    except OSError as refusal:
        if str(PORT) not in str(refusal):
            raise
    else:
        sys.exit(f"port {PORT} was published twice")


def churn(cycles: str, at_once: str, seed: str) -> list[float]:
    CONFIG.update(name="churn", subnets=["10.61.0.0/16", "fd00:61::/64"])
    chance, taken, left = random.Random(int(seed)), [], iter(range(int(cycles)))
    names = [f"churn{number}" for number in range(int(at_once))]
    namespaces("add", names)

    def one(number: int) -> None:
        for _ in left:
            if chance.random() < 0.05:  # a port that is taken: whole refusal, nothing left
                check_refused(names[number])
            taken.append(add(names[number], CHURN_PORT + number))
            for _ in range(2 if chance.random() < 0.05 else 1):
                call("DEL", names[number], CHURN_PORT + number)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(one, range(len(names))))
    namespaces("del", names)
    return taken


def generation() -> int:
    """NFT_MSG_GETGEN of linux/netfilter/nf_tables.h: each transaction adds one to NFTA_GEN_ID."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(struct.pack("=IHHII4x", 20, 0x0A10, 1, 1, 0))
        return int(struct.unpack_from(">I", netlink.recv(4096), 24)[0])


if __name__ == "__main__":
    threading.stack_size(1 << 17)
    VERBS = {"up": up, "down": down, "churn": churn, "generation": generation}
    print(json.dumps(VERBS[sys.argv[1]](*sys.argv[2:])))  # type: ignore[operator]
