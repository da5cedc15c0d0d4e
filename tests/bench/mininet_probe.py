"""Mininet's side of row 13, run by the system's Python inside a lab: hosts on Linux bridges, up and down.

mininet_probe.py HOSTS PER_NETWORK prints a JSON list of two numbers of seconds.
"""

import json
import sys
import time

from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import Topo


class Networks(Topo):
    """`hosts` hosts, `each` of them on a bridge."""

    def build(self, hosts: int, each: int) -> None:
        for number in range(hosts):
            if number % each == 0:
                bridge = self.addSwitch(f"s{number // each}")
            self.addLink(self.addHost(f"h{number}"), bridge)


setLogLevel("error")
hosts, each = map(int, sys.argv[1:])
began = time.monotonic()
net = Mininet(topo=Networks(hosts, each), switch=LinuxBridge, controller=None)
net.start()
up = time.monotonic()
net.stop()
print(json.dumps([up - began, time.monotonic() - up]))
