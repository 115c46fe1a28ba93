"""The Python SDK: `Client` (async) and `SyncClient` over gRPC or HTTP; importing it loads neither of them.

::

    async with Client("grpc://127.0.0.1:50051") as client:
        embedding = await client.generate_embedding("cat.jpg", model="shapes-clip")
"""

from modelmora.client.classification import Classification
from modelmora.client.client import Client
from modelmora.client.comparison import Comparison
from modelmora.client.control import ModelInfo
from modelmora.client.embedding import Embedding
from modelmora.client.found import Found, Hit, HitGroup
from modelmora.client.kept import DeadLetterInfo, ImageInfo, IndexInfo, KeptImage, WayInfo
from modelmora.client.prediction import Prediction
from modelmora.client.progress import Progress
from modelmora.client.questions import Query
from modelmora.client.registered import (
    AuditInfo,
    AuditVerdict,
    Collected,
    FieldDifference,
    LineageInfo,
    Transfer,
    VersionInfo,
)
from modelmora.client.retry import Retry
from modelmora.client.segmentation import Mask, Segmentation
from modelmora.client.sync import SyncClient
from modelmora.client.tensors import Array, tensor
from modelmora.client.transport import Transport
from modelmora.client.uploading import Stored
from modelmora.domain.classification import Class
from modelmora.domain.inference import Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.domain.registry.provenance import Metric
from modelmora.domain.segmentation import Box, Everything, Point, Prompt
from modelmora.domain.tensors import Tensor
from modelmora.errors import (
    AccessError,
    ArtifactCorrupt,
    Cancelled,
    CapabilityMissing,
    Conflict,
    DeadlineExceeded,
    DependencyUnavailable,
    ImageNotFound,
    InputError,
    InternalError,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    Overloaded,
    PreconditionFailed,
    SchemaMismatch,
    StateError,
    Unavailable,
    ValidationFailed,
    VersionNotFound,
    WrongState,
)

__all__ = [
    "AccessError",
    "Array",
    "ArtifactCorrupt",
    "AuditInfo",
    "AuditVerdict",
    "Box",
    "Cancelled",
    "CapabilityMissing",
    "Class",
    "Classification",
    "Client",
    "Collected",
    "Comparison",
    "Conflict",
    "DeadLetterInfo",
    "DeadlineExceeded",
    "DependencyUnavailable",
    "Embedding",
    "Everything",
    "Failed",
    "FieldDifference",
    "Found",
    "Hit",
    "HitGroup",
    "Image",
    "ImageInfo",
    "ImageNotFound",
    "IndexInfo",
    "InputError",
    "InternalError",
    "KeptImage",
    "LineageInfo",
    "Mask",
    "Metric",
    "ModelInfo",
    "ModelLoading",
    "ModelMoraError",
    "ModelNotFound",
    "NotFound",
    "Ok",
    "OutOfMemory",
    "Outcome",
    "Overloaded",
    "Point",
    "PreconditionFailed",
    "Prediction",
    "Progress",
    "Prompt",
    "Query",
    "Retry",
    "SchemaMismatch",
    "Segmentation",
    "StateError",
    "Stored",
    "SyncClient",
    "Tensor",
    "Text",
    "Transfer",
    "Transport",
    "Unavailable",
    "ValidationFailed",
    "VersionInfo",
    "VersionNotFound",
    "WayInfo",
    "WrongState",
    "tensor",
    "unwrap",
]
