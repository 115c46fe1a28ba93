"""The API's side of an examination: one runner's steps, as they come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc

from modelmora.domain.models import ModelSpec
from modelmora.errors import DeadlineExceeded, DependencyUnavailable
from modelmora.ports import LOST, Examination
from modelmora.proto import runner_pb2 as pb
from runners.hop import wire
from runners.hop.link import Link, own_cancellation


async def findings(
    link: Link, model: ModelSpec, what: Examination, *, deadline: float
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Ends the examination when whoever reads leaves; raises what the runner says, and what becomes of the runner."""
    remaining = max(0.0, deadline - time.monotonic())
    spec = wire.spec_to_wire(model)
    request = pb.ExamineRequest(model=model.key, what=what, timeout_ms=remaining * 1e3, spec=spec)
    call = link.stub.Examine(request, timeout=remaining)
    try:
        async for finding in call:
            if finding.HasField("error"):
                raise wire.error_of(finding.error)
            yield json.loads(finding.json)
    except grpc.aio.AioRpcError as cause:
        if cause.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceeded(f"the deadline passed before {what} of {model.key} was done") from cause
        raise _gone(link) from cause
    except asyncio.CancelledError:
        if own_cancellation():
            raise
        raise _gone(link) from None
    finally:
        call.cancel()


def _gone(link: Link) -> DependencyUnavailable:
    said = f"the runner {link.socket.stem} went away meanwhile; ask again"
    return DependencyUnavailable(said, field=LOST, retry_after_s=5.0)
