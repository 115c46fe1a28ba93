"""Under which keys pictures and thumbnails lie in every store, and what is said of objects that cannot be had."""

from __future__ import annotations

from modelmora.errors import ImageNotFound, LimitExceeded, ValidationFailed

PICTURES, THUMBNAILS = "pictures", "thumbnails"
SHOWN = 200


def picture_key(sha256: str) -> str:
    return f"{PICTURES}/{sha256[:2]}/{sha256}"


def thumbnail_key(sha256: str) -> str:
    return f"{THUMBNAILS}/{sha256[:2]}/{sha256}.webp"


def too_large(object_: str, found: int, limit: int) -> LimitExceeded:
    said = f"{shown(object_)} has {found:,} bytes, more than {limit:,}"
    return LimitExceeded(said, field="object", found=f"{found} bytes", expected=f"at most {limit} bytes")


def endless(object_: str, limit: int) -> LimitExceeded:
    """It said another size, or none; nobody knows how many there are."""
    said = f"{shown(object_)} has more than {limit:,} bytes"
    return LimitExceeded(said, field="object", found=f"> {limit} bytes", expected=f"at most {limit} bytes")


def absent(object_: str) -> ImageNotFound:
    return ImageNotFound(f"there is no {shown(object_)}", field="object", found=shown(object_))


def no_object(object_: str, expected: str) -> ValidationFailed:
    return ValidationFailed("not an object of this store", field="object", found=shown(object_), expected=expected)


def shown(object_: str) -> str:
    """However long it is and whatever is in it: half a surrogate pair could be written nowhere."""
    return object_[:SHOWN].encode(errors="backslashreplace").decode()
