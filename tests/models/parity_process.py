"""`verify` of a model in a process of its own, as a runner is one: `python -m tests.models.parity_process FOLDER DATA`.

Prints the report. What a long run of tests leaves behind in torch changes how fast its formats are beside each other.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from runners import devices
from tests.models.workers import Bench, report_of


async def verified(folder: Path, data: Path) -> dict[str, Any]:
    host = Bench(folder, data).host()
    try:
        return await report_of(host)
    finally:
        await host.stop()


if __name__ == "__main__":
    devices.before_torch(1)
    print(json.dumps(asyncio.run(verified(Path(sys.argv[1]), Path(sys.argv[2])))))  # noqa: T201 - what the test reads
