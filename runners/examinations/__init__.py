"""How near and how fast a model is: parity, `verify`, `tune`, what `auto` means."""
