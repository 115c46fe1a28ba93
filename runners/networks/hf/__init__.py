"""Networks of transformers: built from a configuration, weights from safetensors, its image processors' values."""
