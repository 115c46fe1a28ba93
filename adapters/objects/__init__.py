"""Files of any size by the digest of what is in them."""

from adapters.objects.files import FileObjects
from adapters.objects.s3 import S3Objects

__all__ = ["FileObjects", "S3Objects"]
