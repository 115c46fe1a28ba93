"""Pickles are read and not run: weights pass, and what would be imported besides is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmora.imports.pickles import suspicious

WEIGHTS: dict[str, Any] = {
    "float": torch.randn(3),
    "half": torch.zeros(2, dtype=torch.bfloat16),
    "counter": torch.tensor(3),
    "bytes": torch.zeros(2, dtype=torch.uint8),
    "parameter": torch.nn.Parameter(torch.ones(1)),
    "settings": {"names": ["a", "b"], "ratio": 0.5, "deep": (1, None, True)},
}


class Shell:
    """What somebody hides in a file of weights."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("new", [True, False])
def test_weights_of_torch_in_either_format_pass(new: bool, tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "w.bin", _use_new_zipfile_serialization=new)
    assert suspicious(tmp_path / "w.bin") == []
    torch.load(tmp_path / "w.bin", weights_only=True)  # which is what loads them


@pytest.mark.parametrize("new", [True, False])
def test_a_call_among_the_weights_is_named_and_not_made(
    new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**WEIGHTS, "x": Shell()}, "w.bin", _use_new_zipfile_serialization=new)
    assert suspicious(tmp_path / "w.bin") == ["posix.system"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps([1, Shell()], protocol=protocol))
    [name] = suspicious(tmp_path / "p")
    assert name.startswith("posix.system")


def test_a_whole_network_is_named_by_its_classes(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.bin")
    assert "torch.nn.modules.linear.Linear" in suspicious(tmp_path / "m.bin")


def test_a_harmless_name_on_the_stack_is_not_believed(tmp_path: Path) -> None:
    """It may be another one by the time it is used."""
    (tmp_path / "p").write_bytes(b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R.")
    assert suspicious(tmp_path / "p") == ["collections.OrderedDict (by its name on the stack)"]


def test_what_it_is_is_told_by_how_it_begins(tmp_path: Path) -> None:
    """An unpickler reads from the front, whatever is behind."""
    torch.save(WEIGHTS, tmp_path / "good.bin")
    (tmp_path / "p").write_bytes(pickle.dumps(Shell(), protocol=2) + (tmp_path / "good.bin").read_bytes())
    with pytest.raises(ValueError, match=r"."):
        suspicious(tmp_path / "p")


def test_a_pickle_behind_another_is_read_whatever_its_protocol(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(1, protocol=2) + pickle.dumps(Shell(), protocol=0))
    assert suspicious(tmp_path / "p") == ["posix.system"]


@pytest.mark.parametrize("size", [128, 384, 640, 127, 1])
def test_storages_of_the_older_format_are_not_taken_for_pickles(size: int, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(size)}, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    assert suspicious(tmp_path / "w.bin") == []


def test_very_many_names_are_cut_short(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\x80\x02" + b"".join(b"cos\nf%d\n" % n for n in range(100_000)) + b".")
    assert len(suspicious(tmp_path / "p")) == 20


def test_a_pickle_larger_than_any_of_torchs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\x80\x02B" + (2**31 - 1).to_bytes(4, "little") + b"x" * 100)
    with pytest.raises(ValueError, match="more than"):
        suspicious(tmp_path / "p")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 no archive", b"\x80\x02garbage"])
def test_what_is_no_file_of_torch_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        suspicious(tmp_path / "p")
