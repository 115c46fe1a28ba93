"""The watchdog, on processes that hang: it must work when the interpreter does not."""

import subprocess
import sys

import pytest

HOLDS_THE_LOOP = "import time; time.sleep(60)"
HOLDS_THE_INTERPRETER = "import ctypes; ctypes.PyDLL(None).sleep(60)"


@pytest.mark.parametrize("hang", [HOLDS_THE_LOOP, HOLDS_THE_INTERPRETER])
def test_a_process_whose_loop_stands_still_shows_where_and_ends(hang: str) -> None:
    code = f"""
import asyncio
from modelmora.stall import watch_loop

async def main():
    watching = asyncio.create_task(watch_loop(0.5))
    await asyncio.sleep(0.8)
    print("alive", flush=True)
    {hang}

asyncio.run(main())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert process.returncode == 1
    assert process.stdout == "alive\n"
    assert "Timeout (0:00:00.500000)!" in process.stderr
    assert "in main" in process.stderr
