"""Which status an error gives: one table, HTTP and gRPC side by side."""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode

from modelmora.errors import ModelMoraError

RETRY_AFTER_S = 1.0
"""Told where an error that may pass says nothing itself."""


@dataclass(frozen=True, slots=True)
class Status:
    """One row: the HTTP status with its title, and the gRPC status."""

    http: int
    title: str
    grpc: StatusCode
    retry: bool = False


_CLIENT_CLOSED = 499

STATUSES: dict[str, Status] = {
    "invalid_input": Status(400, "Unreadable input", StatusCode.INVALID_ARGUMENT),
    "unsupported_media": Status(415, "Unsupported media", StatusCode.INVALID_ARGUMENT),
    "schema_mismatch": Status(422, "Schema mismatch", StatusCode.INVALID_ARGUMENT),
    "validation": Status(422, "Invalid value", StatusCode.INVALID_ARGUMENT),
    "capability_missing": Status(422, "The model cannot do that", StatusCode.FAILED_PRECONDITION),
    "unauthenticated": Status(401, "Unauthenticated", StatusCode.UNAUTHENTICATED),
    "permission_denied": Status(403, "Permission denied", StatusCode.PERMISSION_DENIED),
    "model_not_found": Status(404, "Model not found", StatusCode.NOT_FOUND),
    "version_not_found": Status(404, "Version not found", StatusCode.NOT_FOUND),
    "image_not_found": Status(404, "Image not found", StatusCode.NOT_FOUND),
    "conflict": Status(409, "Conflict", StatusCode.ABORTED),
    "wrong_state": Status(409, "Wrong state", StatusCode.FAILED_PRECONDITION),
    "precondition_failed": Status(412, "Precondition failed", StatusCode.ABORTED),
    "limit_exceeded": Status(413, "Limit exceeded", StatusCode.RESOURCE_EXHAUSTED),
    "rate_limited": Status(429, "Rate limited", StatusCode.RESOURCE_EXHAUSTED, retry=True),
    "quota_exceeded": Status(429, "Quota exceeded", StatusCode.RESOURCE_EXHAUSTED, retry=True),
    "overloaded": Status(503, "Overloaded", StatusCode.UNAVAILABLE, retry=True),
    "model_loading": Status(503, "Model loading", StatusCode.UNAVAILABLE, retry=True),
    "model_load_failed": Status(503, "Model load failed", StatusCode.UNAVAILABLE),
    "artifact_corrupt": Status(503, "Artifact corrupt", StatusCode.UNAVAILABLE),
    "dependency_unavailable": Status(503, "Dependency unavailable", StatusCode.UNAVAILABLE, retry=True),
    "deadline_exceeded": Status(504, "Deadline exceeded", StatusCode.DEADLINE_EXCEEDED),
    "out_of_memory": Status(507, "Out of memory", StatusCode.RESOURCE_EXHAUSTED),
    "cancelled": Status(_CLIENT_CLOSED, "Cancelled", StatusCode.CANCELLED),
    "internal": Status(500, "Internal error", StatusCode.INTERNAL),
}


def retry_after_s(error: ModelMoraError) -> float | None:
    """Seconds after which a caller should come back; None where repeating does not help."""
    if error.retry_after_s is not None:
        return error.retry_after_s
    return RETRY_AFTER_S if STATUSES[error.code].retry else None
