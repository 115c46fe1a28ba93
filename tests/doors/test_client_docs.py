"""The examples of docs/client.md run as they stand, against another port."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import examples
from tests.doors.client_registry_app import Registrar, registry_server
from tests.doors.client_script import Script
from tests.doors.client_servers import grpc_server, http_server

EXAMPLES = [example.code for example in examples.runnable("docs/client.md")]
PRINTED = [
    "shapes-clip@1.0.0 4\n",
    "0 Ok(value=Embedding(",
    "1 invalid_input cannot read absent.jpg",
    "loading 35.0\ninference 80.0\n4\n",
    "shapes-clip@1.0.0 [('cat', 0.75), ('dog', 0.25)]\ninvalid_input\n",
    "0 0.5 8 4.0 (2, 4)\n1 0.75 8 4.0 (2, 4)\n",
    "features float32 (1, 4) [[5.0, 3.0, 1.0, 0.0]]\n",
    "shapes-clip@1.0.0 4 12582912 35.0 [1.0, 0.5, 0.5]\nmodel_not_found\n",
    "4096 4096\n",
    "iris@1.1.0 approved tensor\n",
]


@pytest.mark.parametrize(("example", "printed"), [*zip(EXAMPLES, PRINTED, strict=True)])
def test_an_example_of_the_page_runs(
    example: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "dog.jpg"):
        Path(name).write_bytes(name.encode())
    Path("my-model").mkdir()
    Path("my-model/model.onnx").write_bytes(b"a graph")
    control = registry_server(Registrar()) if "client.register(" in example else http_server(Script())
    with grpc_server(Script()) as url, control as control_url:
        here = example.replace("grpc://127.0.0.1:50051", url).replace("http://127.0.0.1:3000", control_url)
        assert here != example
        exec(compile(here, "docs/client.md", "exec"), {"__name__": "example"})
    assert printed in capsys.readouterr().out
