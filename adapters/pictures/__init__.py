"""Pictures that a request names by URL."""

from adapters.pictures.closed import ClosedPictures
from adapters.pictures.http import FetchRules, HttpPictures

__all__ = ["ClosedPictures", "FetchRules", "HttpPictures"]
