"""ModelMora: the light core, the SDK and the command line of a vision-model server."""

__version__ = "0.1.0"
