"""Time commands where they run: inside the lab, so that entering it is not measured.

Reads a JSON list of argument lists from standard input, runs each to its end and prints a JSON list
of seconds. The first that fails ends it with what it wrote.
"""

import json
import subprocess
import sys
import time


def seconds(argv: list[str]) -> float:
    """How long one command takes, from its start to its end."""
    began = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(argv)[:200]}: exit {done.returncode}: {done.stdout.decode()[-2000:]}")
    return took


if __name__ == "__main__":
    print(json.dumps([seconds(argv) for argv in json.load(sys.stdin)]))
