"""The bundled `shapes-clip`: the pictures it learns from, its training and its measurement."""
