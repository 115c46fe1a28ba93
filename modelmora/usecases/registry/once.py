"""A request that is sent twice is answered twice and done once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from modelmora.errors import ModelMoraError, ValidationFailed
from modelmora.ports import Answer, IdempotencyKeys

log = structlog.get_logger(__name__)

LONGEST_KEY = 255
TTL_S, RENEW_S = 30.0, 10.0
"""So long nobody else answers after the process that did was killed; renewed while it is at work."""


class Claim:
    """The right to answer a request; `answered` is how that was done before, and then it is not done again."""

    def __init__(self, answered: Answer | None) -> None:
        self.answered = answered
        self.kept: Answer | None = None

    def keep(self, answer: Answer) -> None:
        """What the next one who comes with the key is told; without it, the key is free again."""
        self.kept = answer


class Idempotency:
    """Requests by their keys."""

    def __init__(self, keys: IdempotencyKeys) -> None:
        self._keys = keys

    @asynccontextmanager
    async def claim(self, key: str, *, route: str, digest: str) -> AsyncIterator[Claim]:
        """`route` is the method and the path, `digest` the body's.

        Raises ValidationFailed for what is no key or came with another request, Conflict while that is being answered.
        """
        if not 1 <= len(key) <= LONGEST_KEY or not all(" " <= one <= "~" for one in key):
            expected = f"1 to {LONGEST_KEY} printable ASCII characters"
            said = "not a key for a request"
            raise ValidationFailed(said, field="idempotency-key", found=key[:80], expected=expected)
        holder = secrets.token_hex(16)
        claim = Claim(await self._keys.begin(key, holder=holder, route=route, digest=digest, ttl_s=TTL_S))
        if claim.answered is not None:
            yield claim
            return
        renewing = asyncio.create_task(self._renew(key, holder))
        try:
            yield claim
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await asyncio.shield(self._end(key, holder, claim.kept))

    async def _renew(self, key: str, holder: str) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(ModelMoraError):
                await self._keys.renew(key, holder=holder, ttl_s=TTL_S)

    async def _end(self, key: str, holder: str, answer: Answer | None) -> None:
        """What was done is done: a store that is away now keeps the answer from the next one, not from this one."""
        try:
            if answer is None:
                await self._keys.forget(key, holder=holder)
            else:
                await self._keys.keep(key, holder=holder, answer=answer)
        except ModelMoraError as error:
            log.warning("idempotency_not_kept", code=error.code, why=error.detail)
