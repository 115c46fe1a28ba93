"""Every error ModelMora raises, in one tree with one stable code each.

::

    ModelMoraError
    ├── InputError            the request is at fault; the same request fails again
    │   ├── InvalidInput          invalid_input        unreadable: truncated, not base64, not JSON
    │   ├── UnsupportedMedia      unsupported_media    readable bytes of a kind we do not take
    │   ├── SchemaMismatch        schema_mismatch      a tensor that is not what the model declares
    │   ├── ValidationFailed      validation           readable, but a value is wrong
    │   ├── CapabilityMissing     capability_missing   the model cannot do this task
    │   └── LimitExceeded         limit_exceeded       bytes, pixels, items, characters
    ├── AccessError
    │   ├── Unauthenticated       unauthenticated
    │   ├── PermissionDenied      permission_denied
    │   ├── RateLimited           rate_limited         come back after `retry_after_s`
    │   └── QuotaExceeded         quota_exceeded       come back after `retry_after_s`
    ├── NotFound
    │   ├── ModelNotFound         model_not_found
    │   ├── VersionNotFound       version_not_found
    │   └── ImageNotFound         image_not_found
    ├── StateError
    │   ├── Conflict              conflict
    │   ├── WrongState            wrong_state
    │   └── PreconditionFailed    precondition_failed
    ├── Unavailable           not the caller's fault; trying again may help
    │   ├── Overloaded            overloaded           the queue is full
    │   ├── ModelLoading          model_loading
    │   ├── ModelLoadFailed       model_load_failed
    │   ├── ArtifactCorrupt       artifact_corrupt
    │   └── DependencyUnavailable dependency_unavailable   a runner, a store, a broker is away
    ├── DeadlineExceeded          deadline_exceeded
    ├── OutOfMemory               out_of_memory        does not fit even after eviction
    ├── Cancelled                 cancelled            the caller left; nothing is sent
    └── InternalError             internal             a defect of ours; details stay in the log

The code crosses processes; the class does not. `from_code` turns one back into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one item or field of a request."""

    code: str
    detail: str
    index: int | None = None
    field: str | None = None
    found: str | None = None
    expected: str | None = None


class ModelMoraError(Exception):
    """The root. `detail` is safe to show to the caller; causes are chained and stay in the log."""

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        detail: str,
        *,
        field: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        retry_after_s: float | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.found = found
        self.expected = expected
        self.retry_after_s = retry_after_s
        self.faults = tuple(faults)

    def as_fault(self, index: int | None = None) -> Fault:
        """This error as one entry of a many-item answer."""
        return Fault(self.code, self.detail, index, self.field, self.found, self.expected)


class InputError(ModelMoraError):
    """The request is at fault."""

    code = "invalid_input"


class InvalidInput(InputError):
    """The content cannot be read at all."""

    code = "invalid_input"


class UnsupportedMedia(InputError):
    """Content of a kind that is not taken."""

    code = "unsupported_media"


class SchemaMismatch(InputError):
    """A tensor that is not what the model declares."""

    code = "schema_mismatch"


class ValidationFailed(InputError):
    """Readable, but a value is wrong."""

    code = "validation"


class CapabilityMissing(InputError):
    """The model cannot do what was asked; the detail names what it can."""

    code = "capability_missing"


class LimitExceeded(InputError):
    """Too many bytes, pixels, items or characters."""

    code = "limit_exceeded"


class AccessError(ModelMoraError):
    """Who asks may not, or not now."""

    code = "permission_denied"


class Unauthenticated(AccessError):
    """No identity, or one that does not hold."""

    code = "unauthenticated"


class PermissionDenied(AccessError):
    """The identity lacks the permission."""

    code = "permission_denied"


class RateLimited(AccessError):
    """Too many requests in a short time."""

    code = "rate_limited"


class QuotaExceeded(AccessError):
    """The allowance of the period is used up."""

    code = "quota_exceeded"


class NotFound(ModelMoraError):
    """What was named does not exist."""

    code = "model_not_found"


class ModelNotFound(NotFound):
    """No model of that name."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model exists, the version does not."""

    code = "version_not_found"


class ImageNotFound(NotFound):
    """No picture of that id."""

    code = "image_not_found"


class StateError(ModelMoraError):
    """The thing exists but is not in a state that allows this."""

    code = "conflict"


class Conflict(StateError):
    """Somebody else changed it, or it exists already."""

    code = "conflict"


class WrongState(StateError):
    """The move is not allowed from here; the detail says what is."""

    code = "wrong_state"


class PreconditionFailed(StateError):
    """An If-Match that no longer matches."""

    code = "precondition_failed"


class Unavailable(ModelMoraError):
    """Not the caller's fault; trying again may help."""

    code = "dependency_unavailable"


class Overloaded(Unavailable):
    """The queue is full."""

    code = "overloaded"


class ModelLoading(Unavailable):
    """The model is on its way."""

    code = "model_loading"


class ModelLoadFailed(Unavailable):
    """The model could not be loaded; the detail says why."""

    code = "model_load_failed"


class ArtifactCorrupt(Unavailable):
    """The bytes on disk are not what was registered."""

    code = "artifact_corrupt"


class DependencyUnavailable(Unavailable):
    """A runner, a store or a broker does not answer."""

    code = "dependency_unavailable"


class DeadlineExceeded(ModelMoraError):
    """The caller's time is over."""

    code = "deadline_exceeded"


class OutOfMemory(ModelMoraError):
    """Does not fit even after eviction."""

    code = "out_of_memory"


class Cancelled(ModelMoraError):
    """The caller left."""

    code = "cancelled"


class InternalError(ModelMoraError):
    """A defect of ours."""

    code = "internal"


def leaves(root: type[ModelMoraError] = ModelMoraError) -> list[type[ModelMoraError]]:
    """The concrete errors below `root`, in the order of the drawing; special cases other modules made are not in it."""
    below = [child for child in root.__subclasses__() if child.__module__ == __name__]
    return [leaf for child in below for leaf in leaves(child)] if below else [root]


_BY_CODE = {error.code: error for error in leaves()}

RETRYABLE = frozenset({"rate_limited", "overloaded", "model_loading", "dependency_unavailable"})
"""Codes after which the same request may succeed; inference is idempotent, so clients may repeat it."""


def from_code(code: str, detail: str, *, retry_after_s: float | None = None) -> ModelMoraError:
    """The error of a code that came over a wire; an unknown code is an `InternalError`."""
    return _BY_CODE.get(code, InternalError)(detail, retry_after_s=retry_after_s)


def blames_server(error: ModelMoraError) -> bool:
    """Whether nothing that the caller sent, may or did is to blame."""
    return isinstance(error, Unavailable | DeadlineExceeded | OutOfMemory | InternalError)


def unexpected() -> InternalError:
    """All that a caller is told of a defect: the details are in the log only."""
    return InternalError("something went wrong on our side; the log has the details under the request id")
