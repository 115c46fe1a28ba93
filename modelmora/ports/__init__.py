"""What the use cases need of the outside, named by the need; adapters and rooms fulfil it.

Every port that handles many items returns one outcome per item, in the order given. A port raises
only errors of `modelmora.errors`; foreign exceptions are translated in the adapter.
"""

from modelmora.ports.inference import (
    Capacity,
    Classifier,
    Describer,
    Embedder,
    Pictures,
    Predicted,
    Predictor,
    Segmenter,
    Watch,
)
from modelmora.ports.models import (
    Artifacts,
    Examination,
    Fetch,
    Holding,
    Hook,
    ModelHost,
    ModelReport,
    Traffic,
    Warmed,
    WorkerView,
)
from modelmora.ports.registry import (
    AuditLog,
    Lineages,
    Objects,
    RegisteredModels,
    RegisteredVersions,
    StoredObject,
    Upload,
)
from modelmora.ports.state import (
    Desire,
    DesiredModels,
    Footprint,
    Footprints,
    Leases,
    Wanted,
)

__all__ = [
    "Artifacts",
    "AuditLog",
    "Capacity",
    "Classifier",
    "Describer",
    "Desire",
    "DesiredModels",
    "Embedder",
    "Examination",
    "Fetch",
    "Footprint",
    "Footprints",
    "Holding",
    "Hook",
    "Leases",
    "Lineages",
    "ModelHost",
    "ModelReport",
    "Objects",
    "Pictures",
    "Predicted",
    "Predictor",
    "RegisteredModels",
    "RegisteredVersions",
    "Segmenter",
    "StoredObject",
    "Traffic",
    "Upload",
    "Wanted",
    "Warmed",
    "Watch",
    "WorkerView",
]
