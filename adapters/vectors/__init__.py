"""Vectors that are searched: Qdrant in a folder or on a server, a folder that another process has, or none."""
