"""Files of any size by the digest of what is in them."""

from typing import TYPE_CHECKING

from adapters.objects.files import FileObjects

if TYPE_CHECKING:
    from adapters.objects.s3 import S3Objects

__all__ = ["FileObjects", "S3Objects"]


def __getattr__(name: str) -> object:
    """`S3Objects` when it is asked for: its client takes long to import, and most have no such store."""
    if name != "S3Objects":
        raise AttributeError(name)
    from adapters.objects.s3 import S3Objects  # noqa: PLC0415 - see above

    return S3Objects
