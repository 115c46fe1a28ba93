"""The promise of the SDK's import: it is light."""

import json
import subprocess
import sys

HEAVY = ["torch", "numpy", "PIL", "httpx", "pydantic", "grpc", "google.protobuf", "rich", "bentoml"]


def loaded_after(statement: str) -> list[str]:
    program = f"import json, sys; {statement}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_importing_the_client_loads_nothing_heavy() -> None:
    assert loaded_after("import modelmora.client") == []


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    assert loaded_after("import modelmora.cli.__main__") == []


def test_making_a_client_connects_to_nothing_and_loads_nothing() -> None:
    assert loaded_after("from modelmora.client import Client; Client(); Client('http://127.0.0.1:3000')") == []
