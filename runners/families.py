"""Which model families there are: one file each in this folder, named as the registry's `provider`."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import cast

from modelmora.domain.capability import types_of
from modelmora.domain.models import ModelType
from modelmora.errors import ModelLoadFailed
from runners.provider import AnyProvider

_PROVIDES = re.compile(r"^PROVIDER\b", re.MULTILINE)


@cache
def available() -> frozenset[str]:
    """The families this build has: the files here that have a PROVIDER; imports none of them."""
    files = Path(__file__).parent.glob("*.py")
    return frozenset(file.stem for file in files if _PROVIDES.search(file.read_text(encoding="utf-8")))


def provider(name: str) -> AnyProvider:
    """The family's provider; raises ModelLoadFailed when there is none."""
    if name not in available():
        raise ModelLoadFailed(f"no model family {name!r}; there are {', '.join(sorted(available()))}")
    return cast(AnyProvider, importlib.import_module(f"runners.{name}").PROVIDER)


def serves(name: str) -> frozenset[ModelType]:
    """The types of model that a family serves."""
    return types_of(provider(name).tasks())
