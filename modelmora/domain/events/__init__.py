"""Events: the envelope, the registry of types, and older versions read as newer ones."""
