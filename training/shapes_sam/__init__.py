"""The bundled `shapes-sam`: the scenes it learns from, its training and its measurement."""
