"""A client's connection to one server: what every method needs of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

from modelmora.client.address import DEFAULT_URL, Address
from modelmora.client.answers import lost
from modelmora.client.control import Control
from modelmora.client.retry import Retrier, Retry
from modelmora.client.transport import Transport, connect
from modelmora.domain.inference import Call, Priority
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import Cancelled, InternalError, ModelMoraError, ValidationFailed, WrongState

T = TypeVar("T")
R = TypeVar("R")


class Session:
    """Opens the transport on first use; after `close` every method raises WrongState."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        control_url: str | None = None,
        timeout: float = 60.0,
        retry: Retry = Retry(),  # noqa: B008 - a frozen value
        channels: int = 4,
        token: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._address = Address.parse(url)
        self._timeout = positive("timeout", timeout)
        self._channels = int(positive("channels", channels))
        self._token = token
        self._retrier = Retrier(retry=retry)
        self._transport = transport
        self._control_half = Control(
            Address.parse(control_url).control_url if control_url else self._address.control_url,
            token=token,
            timeout=timeout,
            retrier=self._retrier,
        )
        self._closed = False

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection; calls still running fail with `cancelled`. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        await self._control_half.close()
        if self._transport is not None:
            await self._transport.close()

    def _call(self, timeout: float | None, *, priority: Priority, truncate: bool = False) -> Call:
        seconds = self._timeout if timeout is None else positive("timeout", timeout)
        return Call(
            request_id=uuid.uuid4().hex, deadline=time.monotonic() + seconds, priority=priority, truncate=truncate
        )

    def _open(self) -> Transport:
        self._refuse_if_closed()
        if self._transport is None:
            self._transport = connect(self._address, channels=self._channels, token=self._token)
        return self._transport

    def _still_open(self) -> Transport:
        """For work that may have waited to try again: raises Cancelled where it was closed meanwhile."""
        if self._closed:
            raise Cancelled("the client was closed while the request ran")
        return self._open()

    async def _settle(
        self,
        items: Sequence[Outcome[T]],
        ask: Callable[[Transport, Sequence[T]], Awaitable[list[Outcome[R]]]],
        *,
        call: Call,
    ) -> list[Outcome[R]]:
        """Asks for what could be read, again for what failed for a passing reason; the others keep their failure."""
        self._open()

        async def send(some: Sequence[T]) -> list[Outcome[R]]:
            try:
                return await ask(self._still_open(), some)
            except Cancelled as error:
                return lost(len(some), error)

        readable = [item.value for item in items if isinstance(item, Ok)]
        answers = iter(await self._retrier.settle(readable, send, deadline=call.deadline) if readable else ())
        return [item if isinstance(item, Failed) else noted_in(next(answers), call) for item in items]

    @property
    def _control(self) -> Control:
        self._refuse_if_closed()
        return self._control_half

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise WrongState("this client is closed; open a new one")


def noted_in(outcome: Outcome[T], call: Call) -> Outcome[T]:
    """The outcome, its error noted."""
    if isinstance(outcome, Failed):
        noted(outcome.error, call)
    return outcome


def noted(error: ModelMoraError, call: Call) -> ModelMoraError:
    """What is in the server's log only can be found there by the request id."""
    note = f"request {call.request_id}"
    if isinstance(error, InternalError) and note not in getattr(error, "__notes__", ()):  # neighbours may share one
        error.add_note(note)
    return error


def positive(name: str, value: float) -> float:
    """The value; raises ValidationFailed where it is not above 0."""
    if value <= 0:
        raise ValidationFailed(f"{name} must be above 0", field=name, found=str(value), expected="> 0")
    return value
