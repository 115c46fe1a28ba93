"""What adapters over a store that speaks S3 have in common: connections, and what is said when it fails."""

from __future__ import annotations

import urllib3
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from modelmora.errors import DependencyUnavailable

TROUBLES = (MinioException, HTTPError, OSError, ValueError)
"""What its client raises."""


def connections(*, connect_s: float, read_s: float, retries: int, most: int) -> urllib3.PoolManager:
    """As many as threads use them; a question is asked again when the store is at fault."""
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=connect_s, read=read_s),
        retries=urllib3.Retry(total=retries, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        maxsize=most,
    )


def place_of(endpoint: str, bucket: str, *, secure: bool) -> str:
    """The bucket as errors name it."""
    return f"{'https' if secure else 'http'}://{endpoint}/{bucket}"


def unavailable(place: str, cause: Exception) -> DependencyUnavailable:
    why = f"{cause.code}: {cause.message}" if isinstance(cause, S3Error) else str(cause)
    said = f"the object store {place} does not do what it is asked: {why}; MODELMORA_OBJECTS_URL names it"
    return DependencyUnavailable(said, retry_after_s=1.0)
