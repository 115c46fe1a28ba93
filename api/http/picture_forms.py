"""Pictures with fields beside them: a multipart form, or one picture as the whole body and the fields in the query."""

from __future__ import annotations

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from modelmora.domain.inference import Content, Image
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, UnsupportedMedia, ValidationFailed

USUAL_FIELDS = 64
USUAL_FIELD_BYTES = 2**20


async def read_pictures(
    request: Request, *, most_files: int, most_fields: int = USUAL_FIELDS, most_field_bytes: int = USUAL_FIELD_BYTES
) -> tuple[list[Outcome[Content]], FormData]:
    """The pictures, one at least, and the fields beside them, each of so many bytes at most.

    Raises UnsupportedMedia, ValidationFailed (no pictures), and HTTPException beyond the limits.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        async with request.form(max_files=most_files, max_fields=most_fields, max_part_size=most_field_bytes) as form:
            return [await picture(part) for part in _files(form)], form
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        return [Ok(Image(await request.body()))], FormData(list(request.query_params.multi_items()))
    raise UnsupportedMedia(
        "this route takes multipart/form-data with `files`, or one picture as the body",
        field="content-type",
        found=media_type[:80] or "none",
        expected="multipart/form-data, image/* or application/octet-stream",
    )


def _files(form: FormData) -> list[UploadFile | str]:
    parts = form.getlist("files")
    if not parts:
        raise ValidationFailed(
            "no files in the form",
            field="files",
            found=", ".join(form.keys())[:80] or "nothing",
            expected="at least one part named files",
        )
    return parts


async def picture(part: UploadFile | str) -> Outcome[Content]:
    """A part of a form as a picture; failed where it is a text field."""
    if isinstance(part, str):
        return Failed(InvalidInput("the part `files` has no filename, so it is a text field", field="files"))
    return Ok(Image(await part.read()))
