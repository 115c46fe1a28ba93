"""The files `modelmora embed --output` writes: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TypeAlias

import click

from modelmora.cli.sources import Source
from modelmora.client import Embedding, ModelMoraError

Rows: TypeAlias = Sequence[tuple[Source, Embedding]]


def check_output(output: Path) -> None:
    """Before anything is sent: the suffix is known, its library is here, the folder exists. Raises UsageError."""
    if output.suffix not in _WRITERS:
        raise click.UsageError(f"--output {output}: name a file that ends in {', '.join(_WRITERS)}")
    missing = [name for name in _NEEDS[output.suffix] if find_spec(name) is None]
    if missing:
        needs = " and ".join(missing)
        raise click.UsageError(f"--output {output} needs {needs}: pip install 'modelmora[files]', or write .jsonl")
    if not output.parent.is_dir():
        raise click.UsageError(f"--output {output}: there is no folder {output.parent}")


def write_output(output: Path, rows: Rows) -> None:
    """Replaces `output` in one step: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _WRITERS[output.suffix](file, rows)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, output)
    except BaseException:
        os.unlink(name)
        raise


def _write_jsonl(file: IO[bytes], rows: Rows) -> None:
    for source, embedding in rows:
        file.write(json.dumps(as_json(source, embedding), ensure_ascii=False).encode() + b"\n")


def as_json(source: Source, embedding: Embedding) -> dict[str, object]:
    """One embedding as a line of JSON; `path` or `text` says of what."""
    return {
        source.kind: source.name,
        "model": embedding.model,
        "version": embedding.version,
        "dimension": embedding.dimension,
        "embedding": embedding.tolist(),
    }


def failure_as_json(source: Source, error: ModelMoraError) -> dict[str, object]:
    """The line in place of an embedding."""
    return {source.kind: source.name, "error": {"code": error.code, "detail": error.detail}}


def _write_npz(file: IO[bytes], rows: Rows) -> None:
    import numpy as np  # noqa: PLC0415 - an extra; check_output has seen that it is here

    vectors = np.frombuffer(b"".join(embedding.data for _, embedding in rows), dtype="<f4")
    np.savez(
        file,
        path=np.array([source.name if source.kind == "path" else "" for source, _ in rows], dtype=np.str_),
        text=np.array([source.name if source.kind == "text" else "" for source, _ in rows], dtype=np.str_),
        embedding=vectors.reshape(len(rows), -1),
        model=np.array([embedding.key for _, embedding in rows], dtype=np.str_),
    )


def _write_parquet(file: IO[bytes], rows: Rows) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra; check_output has seen that it is here
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    dimension = rows[0][1].dimension
    flat = pa.Array.from_buffers(
        pa.float32(),
        len(rows) * dimension,
        [None, pa.py_buffer(b"".join(embedding.data for _, embedding in rows))],
    )
    table = pa.table(
        {
            "path": pa.array([source.name if source.kind == "path" else None for source, _ in rows], pa.string()),
            "text": pa.array([source.name if source.kind == "text" else None for source, _ in rows], pa.string()),
            "model": pa.array([embedding.model for _, embedding in rows]),
            "version": pa.array([embedding.version for _, embedding in rows]),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, dimension),
        }
    )
    pq.write_table(table, file)


_WRITERS: Mapping[str, Callable[[IO[bytes], Rows], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}
_NEEDS: Mapping[str, Sequence[str]] = {".npz": ("numpy",), ".parquet": ("pyarrow",), ".jsonl": ()}


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
