"""What each route and RPC asks of its caller."""

from __future__ import annotations

from typing import Literal

Permission = Literal["none", "read", "infer", "operate", "admin"]

RPC_PERMISSIONS: dict[str, Permission] = {
    "/modelmora.v1.ModelInference/GenerateEmbedding": "infer",
    "/modelmora.v1.ModelInference/GenerateBatch": "infer",
    "/modelmora.v1.ModelInference/GenerateEmbeddingStream": "infer",
    "/modelmora.v1.ModelInference/Segment": "infer",
    "/modelmora.v1.ModelInference/Classify": "infer",
    "/modelmora.v1.ModelInference/Predict": "infer",
    "/modelmora.v1.ModelInference/Compare": "infer",
    "/modelmora.v1.ModelInference/UploadImages": "infer",
    "/modelmora.v1.ModelInference/Search": "infer",
    "/modelmora.v1.ModelManagement/ListModels": "read",
    "/modelmora.v1.ModelManagement/GetModel": "read",
    "/modelmora.v1.ModelManagement/LoadModel": "operate",
    "/modelmora.v1.ModelManagement/UnloadModel": "operate",
    "/modelmora.v1.ModelManagement/WarmupModel": "operate",
    "/inference.GRPCInferenceService/ServerLive": "none",
    "/inference.GRPCInferenceService/ServerReady": "none",
    "/inference.GRPCInferenceService/ServerMetadata": "read",
    "/inference.GRPCInferenceService/ModelReady": "read",
    "/inference.GRPCInferenceService/ModelMetadata": "read",
    "/inference.GRPCInferenceService/ModelConfig": "read",
    "/inference.GRPCInferenceService/ModelInfer": "infer",
    "/inference.GRPCInferenceService/ModelStreamInfer": "infer",
    "/inference.GRPCInferenceService/RepositoryIndex": "read",
    "/inference.GRPCInferenceService/RepositoryModelLoad": "operate",
    "/inference.GRPCInferenceService/RepositoryModelUnload": "operate",
    "/grpc.health.v1.Health/Check": "none",
    "/grpc.health.v1.Health/Watch": "none",
    "/grpc.health.v1.Health/List": "none",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "none",
}
"""Full RPC name -> permission; an RPC that is served and not here fails a test."""
