"""A span for each question to a store, around any adapter: only where somebody records."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from opentelemetry.trace import SpanKind

from modelmora import tracing

T = TypeVar("T")


def observed(adapter: T, port: str, *, system: str) -> T:
    """The adapter, whose coroutine methods are parts of the span that is current where they are called.

    `port` is what we call it (`cache`), `system` what stands behind it, as OpenTelemetry names that (`redis`).
    """
    return cast("T", _Observed(adapter, port, system))


class _Observed:
    def __init__(self, adapter: object, port: str, system: str) -> None:
        self._adapter = adapter
        self._port = port
        self._system = system

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._adapter, name)
        if not inspect.iscoroutinefunction(found):
            return found
        asked = self._asked(name, found)
        self.__dict__[name] = asked
        return asked

    def _asked(
        self, name: str, method: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        told = {"db.system.name": self._system, "db.operation.name": name}

        @functools.wraps(method)
        async def asked(*args: Any, **kwargs: Any) -> Any:
            with tracing.child(f"{self._port} {name}", kind=SpanKind.CLIENT, attributes=told):
                return await method(*args, **kwargs)

        return asked
