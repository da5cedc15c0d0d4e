"""A daemon to be killed: makes and runs containers without end, below the run directory named."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from netd.runtime.local import LocalRuntime
from netd.runtime.spec import ContainerSpec, Process


async def main(run_dir: str, netns: str) -> None:
    runtime = LocalRuntime(Path(run_dir))
    await runtime.start()
    print("ready", flush=True)
    found = os.stat(netns)  # noqa: PTH116
    number = 0
    while True:
        number += 1
        id = f"{os.getpid():08x}{number:08x}"
        process = Process(argv=("/bin/sh", "-c", "echo x; sleep 0.01"))
        await runtime.create(
            ContainerSpec(
                id=id,
                process=process,
                hostname="x",
                netns=netns,
                netns_device=found.st_dev,
                netns_inode=found.st_ino,
            )
        )
        await runtime.run(id)
        await (await runtime.exec(id, Process(argv=("true",)))).close()
        await runtime.wait(id)
        await runtime.remove(id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
