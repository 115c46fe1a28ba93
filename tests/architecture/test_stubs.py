"""The generated stubs are those of the .proto files beside them."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.tree import ROOT
from tests.support import required_in_ci

PROTO = ROOT / "modelmora" / "proto"
NAMES = sorted(path.stem for path in PROTO.glob("*.proto"))
PYTHON = ROOT / ".venv-proto" / "bin" / "python"

_BLOCK = re.compile(r"^(message|enum|service)\s+(\w+)\s*\{(?:\s*\}|(.*?)^\})", re.M | re.S)
_NESTED = re.compile(r"^[ ]+(message\s+\w+\s*\{[^{}]*\})", re.M)
_FIELD = re.compile(r"^\s*(?:(repeated|optional)\s+)?([\w.]+)\s+(\w+)\s*=\s*(\d+)\s*;", re.M)
_MAP = re.compile(r"^\s*map<(\w+),\s*([\w.]+)>\s+(\w+)\s*=\s*(\d+)\s*;", re.M)
_VALUE = re.compile(r"^\s*(\w+)\s*=\s*(\d+)\s*;", re.M)
_RPC = re.compile(r"rpc\s+(\w+)\s*\((stream\s+)?([\w.]+)\)\s*returns\s*\((stream\s+)?([\w.]+)\)")

Fact = tuple[str, ...]


def written(name: str) -> set[Fact]:
    """Every message, field, enum value and RPC in the text of a .proto file."""
    text = re.sub(r"//.*", "", (PROTO / f"{name}.proto").read_text())
    nested = [re.sub(r"\s*\}$", "\n}", message) for message in _NESTED.findall(text)]  # told as if they stood outside
    text = "\n".join([_NESTED.sub("", text), *nested])
    facts: set[Fact] = set()
    for kind, of, body in _BLOCK.findall(text):
        facts.add((kind, of))
        match kind:
            case "message":
                facts |= {
                    (of, field, number, type_.rpartition(".")[2], str(label == "repeated"))
                    for label, type_, field, number in _FIELD.findall(body)
                }
                facts |= {
                    (of, field, number, f"map<{key}, {value.rpartition('.')[2]}>", "True")
                    for key, value, field, number in _MAP.findall(body)
                }
            case "enum":
                facts |= {(of, value, number) for value, number in _VALUE.findall(body)}
            case _:
                facts |= {
                    (of, rpc, s1.strip(), i.rpartition(".")[2], s2.strip(), o.rpartition(".")[2])
                    for rpc, s1, i, s2, o in _RPC.findall(body)
                }
    return facts


def generated(name: str) -> set[Fact]:
    """The same facts from the generated descriptor."""
    descriptor: Any = importlib.import_module(f"modelmora.proto.{name}_pb2").DESCRIPTOR
    facts: set[Fact] = set()
    for message in _messages(descriptor.message_types_by_name.values()):
        facts.add(("message", message.name))
        facts |= set(_fields(message))
    for enum in descriptor.enum_types_by_name.values():
        facts.add(("enum", enum.name))
        facts |= {(enum.name, value.name, str(value.number)) for value in enum.values}
    for service in descriptor.services_by_name.values():
        facts.add(("service", service.name))
        facts |= {
            (
                service.name,
                rpc.name,
                "stream" if rpc.client_streaming else "",
                rpc.input_type.name,
                "stream" if rpc.server_streaming else "",
                rpc.output_type.name,
            )
            for rpc in service.methods
        }
    return facts


def _messages(messages: Iterable[Any]) -> Iterator[Any]:
    """With those inside; the entries of maps are no messages of ours."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from _messages(message.nested_types)


def _fields(message: Any) -> Iterator[Fact]:
    from google.protobuf.descriptor import FieldDescriptor

    scalars = {
        getattr(FieldDescriptor, f"TYPE_{kind.upper()}"): kind
        for kind in ("double", "float", "int32", "int64", "uint32", "uint64", "bool", "string", "bytes")
    }

    def typed(field: Any) -> str:
        of = field.message_type or field.enum_type
        if of is None:
            return scalars[field.type]
        if field.message_type and of.GetOptions().map_entry:
            return f"map<{typed(of.fields_by_name['key'])}, {typed(of.fields_by_name['value'])}>"
        return str(of.name)

    for field in message.fields:
        yield message.name, field.name, str(field.number), typed(field), str(field.is_repeated)


@pytest.mark.parametrize("name", NAMES)
def test_the_stubs_have_exactly_what_the_proto_says(name: str) -> None:
    assert len(written(name)) > 5
    assert generated(name) == written(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_rpc_has_its_stub_and_servicer(name: str) -> None:
    module = importlib.import_module(f"modelmora.proto.{name}_pb2_grpc")

    for fact in written(name):
        if len(fact) == 6:
            assert hasattr(getattr(module, f"{fact[0]}Servicer"), fact[1])
        elif fact[0] == "service":
            assert hasattr(module, f"{fact[1]}Stub")


@pytest.mark.parametrize("name", NAMES)
def test_the_types_name_every_field(name: str) -> None:
    types = (PROTO / f"{name}_pb2.pyi").read_text()

    for fact in written(name):
        if len(fact) == 5:
            assert re.search(rf"^ *class {fact[0]}\b.*?\b{fact[1]}\b", types, re.M | re.S), fact


def test_generating_them_anew_changes_nothing(tmp_path: Path) -> None:
    if not PYTHON.exists():
        required_in_ci("there is no .venv-proto (`make components` makes it)")
    sources = [f"modelmora/proto/{name}.proto" for name in NAMES]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    command = [str(PYTHON), "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)

    made = {path.name: path.read_text() for path in (tmp_path / "modelmora" / "proto").iterdir()}
    assert len(made) == 2 * len(NAMES)
    assert made == {name: (PROTO / name).read_text() for name in made}
