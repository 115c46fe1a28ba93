"""`python -m runners.engines.conversion`: exports a model for another library, in a process of its own.

Reads a request as JSON from standard input, writes a line of JSON a step, the last one the report: how near the
network's rows are to torch's in fp32. The memory of two libraries and of calibrating is never the runner's.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modelmora import lifeline
from modelmora.domain.description import Description
from modelmora.domain.models import Batching, ModelSpec, Task
from modelmora.errors import ModelMoraError
from runners import families
from runners.engines.kinds import Format, Kind, Session, library
from runners.engines.towers import Exportable, Towers
from runners.examinations.likeness import inputs, likeness, samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPORT = "report.json"
SUFFIXES: Mapping[Kind, str] = {"onnxruntime": ".onnx", "openvino": ".xml"}
BATCH = 8

Step = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be exported, from where, into which empty folder, and on how many threads."""

    spec: ModelSpec
    folder: Path | None
    into: Path
    engine: Kind
    format: Format
    threads: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def of(cls, text: str) -> Request:
        told = json.loads(text)
        spec = {**told.pop("spec")}
        batching = Batching(**spec.pop("batching"))
        folder = None if told["folder"] is None else Path(told["folder"])
        return cls(
            **{**told, "spec": ModelSpec(**spec, batching=batching), "folder": folder, "into": Path(told["into"])}
        )


def file_of(folder: Path, engine: Kind, task: Task) -> Path:
    """Where a task's network lies in the folder of a converted model."""
    return folder / f"{task}{SUFFIXES[engine]}"


def convert(request: Request) -> Iterator[Step]:
    """Steps, then the report, which is also written beside the networks; raises what loading raises."""
    provider = families.provider(request.spec.provider)
    yield {"stage": "loading"}
    description = provider.describe(request.spec, request.folder)
    towers = cast(Exportable, provider).towers(request.spec, request.folder)
    given = inputs(_Described(description), samples())
    likenesses = {}
    for task, items in given.items():
        yield from _export(request, task, towers, items)
        yield {"stage": "comparing", "task": task}
        reference = _by_torch(towers, task, items)
        near = likeness(_by_engine(request, task, items), reference)
        likenesses[task] = asdict(near)
    version = library(request.engine).version()
    report = {"engine": request.engine, "version": version, "precision": request.format, "likeness": likenesses}
    (request.into / REPORT).write_text(json.dumps(report, indent=2))
    yield {"stage": "report", **report}


def _export(request: Request, task: Task, towers: Towers, items: list[NDArray[np.generic]]) -> Iterator[Step]:
    engine, file = library(request.engine), file_of(request.into, request.engine, task)
    yield {"stage": "exporting", "task": task}
    engine.export(towers.modules[task], items[0], file)
    if request.format == "int8":
        yield {"stage": "calibrating", "task": task}
        engine.quantize(file, items[1::2], request.spec.config.get("quantize", {}))


def _by_torch(towers: Towers, task: Task, items: list[NDArray[np.generic]]) -> NDArray[np.float32]:
    import torch  # noqa: PLC0415 - after the environment was set

    module = towers.modules[task]
    with torch.inference_mode():
        return np.concatenate([module(torch.from_numpy(batch)).numpy() for batch in _batches(items)])


def _by_engine(request: Request, task: Task, items: list[NDArray[np.generic]]) -> NDArray[np.float32]:
    file = file_of(request.into, request.engine, task)
    session: Session = library(request.engine).open(file, request.format, threads=request.threads)
    return np.concatenate([session.run(batch) for batch in _batches(items)])


def _batches(items: list[NDArray[np.generic]]) -> Iterator[NDArray[np.generic]]:
    for start in range(0, len(items), BATCH):
        yield np.stack(items[start : start + BATCH])


@dataclass(frozen=True, slots=True)
class _Described:
    """As much of a model as its samples need."""

    description: Description


def main() -> None:
    """Errors of ours are the last line, with their code."""
    lifeline.hold(grace_s=0.0)  # nobody would take what is made after the runner is gone
    request = Request.of(sys.stdin.read())
    os.environ["OMP_NUM_THREADS"] = str(request.threads or 1)
    os.nice(10)  # whoever is served comes first
    _keep_to(request.threads)
    try:
        for step in convert(request):
            _say(step)
    except ModelMoraError as error:
        _say({"stage": "error", "code": error.code, "detail": error.detail})
    except Exception as cause:  # three libraries, each with errors of its own
        detail = f"{request.engine} cannot take {request.spec.key}: {type(cause).__name__}: {str(cause)[:500]}"
        _say({"stage": "error", "code": "model_load_failed", "detail": detail})


def _keep_to(cores: int) -> None:
    """Libraries that calibrate take all cores they see, whatever they are told of threads."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def _say(step: Step) -> None:
    sys.__stdout__.write(json.dumps(step) + "\n")  # type: ignore[union-attr] # it was given one
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
