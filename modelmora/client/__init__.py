"""The Python SDK: `Client` (async) and `SyncClient` over gRPC or HTTP; importing it loads neither of them.

::

    async with Client("grpc://127.0.0.1:50051") as client:
        embedding = await client.generate_embedding("cat.jpg", model="shapes-clip")
"""

from modelmora.client.client import Client
from modelmora.client.control import ModelInfo
from modelmora.client.embedding import Embedding
from modelmora.client.progress import Progress
from modelmora.client.retry import Retry
from modelmora.client.sync import SyncClient
from modelmora.client.transport import Transport
from modelmora.domain.inference import Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome, unwrap
from modelmora.errors import (
    AccessError,
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    InputError,
    InternalError,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    NotFound,
    OutOfMemory,
    Overloaded,
    StateError,
    Unavailable,
    WrongState,
)

__all__ = [
    "AccessError",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "DependencyUnavailable",
    "Embedding",
    "Failed",
    "Image",
    "InputError",
    "InternalError",
    "ModelInfo",
    "ModelLoading",
    "ModelMoraError",
    "ModelNotFound",
    "NotFound",
    "Ok",
    "OutOfMemory",
    "Outcome",
    "Overloaded",
    "Progress",
    "Retry",
    "StateError",
    "SyncClient",
    "Text",
    "Transport",
    "Unavailable",
    "WrongState",
    "unwrap",
]
