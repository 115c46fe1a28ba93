"""Embeddings that were made before: in memory, in Redis, or nowhere."""
