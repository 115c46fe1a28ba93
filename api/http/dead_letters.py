"""`/api/v1/dead-letters`: what could not be taken in, why, and the way back."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from api import render_registry
from api.core import Core
from api.http.registry_bodies import Body, taken
from api.http.registry_operations import COUNT, MOMENT, TEXT, maybe, obj, paged, route, some
from api.http.registry_queries import Pages
from api.http.routes import json_answer
from api.render_registry import moment
from modelmora.domain.pictures.filters import MOST_IDS, read_ids
from modelmora.errors import ValidationFailed
from modelmora.ports import DeadLetter

SHOWN_BYTES = 64 * 2**10
"""So much of a message is shown."""

_LETTER: dict[str, Any] = {
    **dict.fromkeys(("id", "topic", "image_id", "space", "code", "detail", "stage"), TEXT),
    "attempts": COUNT,
    "first_failed_at": MOMENT,
    "failed_at": MOMENT,
    "replayed_at": maybe(MOMENT),
}
LETTER = obj(**_LETTER)
WHOLE = obj(
    **_LETTER,
    key={**TEXT, "description": "of the message, base64"},
    value={**TEXT, "description": "the message as it came, base64; its first 64 KiB"},
    headers=some(obj(name=TEXT, value=TEXT)),
)


class LettersAsked(Pages):
    """The newest first."""

    code: Annotated[str, Field(max_length=64, description="of the error")] | None = None


class Chosen(Body):
    """Letters by their ids, those of an error, or all that were not replayed yet."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MOST_IDS)] | None = None
    code: str | None = None
    all: bool = False

    def check(self) -> None:
        """Raises ValidationFailed unless exactly one is said."""
        if sum((self.ids is not None, self.code is not None, self.all)) != 1:
            said = "it is not said which letters"
            raise ValidationFailed(said, field="ids", found="none or several", expected="one of ids, code, all")


def dead_letter_router(core: Core) -> APIRouter:
    """Looking, replaying, removing."""
    router = APIRouter(prefix="/api/v1/dead-letters", tags=["pictures"])

    @router.get("", **route("read", paged(LETTER)))
    async def list_letters(asked: Annotated[LettersAsked, Query()]) -> Response:
        """What was given up, the newest first."""
        found = await core.get().kept.letters.find(code=asked.code, page=asked.paging("-"))
        return json_answer(render_registry.page(found, _shown))

    @router.get("/{id}", **route("read", WHOLE))
    async def get_letter(id: str) -> Response:
        """One with the message as it came."""
        return json_answer(_whole(await core.get().kept.letters.get(id)))

    @router.post("/replay", **route("operate", obj(replayed=COUNT), body=Chosen))
    async def replay_letters(request: Request) -> Response:
        """They are taken in anew, with all their tries."""
        letters, body = core.get().kept.letters, await taken(request, Chosen)
        body.check()
        if body.ids is not None:
            count = await letters.replay(read_ids(body.ids, field="ids"))
        else:
            count = await letters.replay_all(code=body.code)
        return json_answer({"replayed": count})

    @router.post("/{id}/replay", **route("operate", obj(replayed=COUNT)))
    async def replay_letter(id: str) -> Response:
        """It is taken in anew."""
        letters = core.get().kept.letters
        return json_answer({"replayed": await letters.replay([(await letters.get(id)).id])})

    @router.delete("/{id}", **route("operate", None, status=204))
    async def remove_letter(id: str) -> Response:
        """It is forgotten; the picture stays as it is."""
        letters = core.get().kept.letters
        await letters.remove([(await letters.get(id)).id])
        return Response(status_code=204)

    return router


def _shown(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "image_id": letter.picture_id,
        "space": letter.space,
        "code": letter.code,
        "detail": letter.detail,
        "stage": letter.stage,
        "attempts": letter.attempts,
        "first_failed_at": moment(letter.first_failed_at),
        "failed_at": moment(letter.failed_at),
        "replayed_at": None if letter.replayed_at is None else moment(letter.replayed_at),
    }


def _whole(letter: DeadLetter) -> dict[str, Any]:
    headers = [{"name": name, "value": _text(value)} for name, value in letter.headers]
    return {**_shown(letter), "key": _text(letter.key), "value": _text(letter.value[:SHOWN_BYTES]), "headers": headers}


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
