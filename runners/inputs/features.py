"""Pictures and the columns of a table into the tensors that a model takes, as it declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelmora.domain.faults import mismatch
from modelmora.domain.features import Categories, Numbers, Pictures, Prepared, Table
from modelmora.errors import Fault, InputError, LimitExceeded, SchemaMismatch
from runners.preprocess import prepare_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LUMA = np.array([19595, 38470, 7471], np.uint32)
"""Red, green and blue of 65,536ths (Pillow's libImaging/Convert.c)."""

PICTURES_BYTES = 64 * 2**20
"""So much the pictures take that are computed together, once they are tensors. One alone may take more: how many
pixels a picture may have is limited elsewhere."""


def prepare(
    arrays: Mapping[str, NDArray[Any]],
    prepared: Sequence[Prepared],
    *,
    first: int,
    rows: int,
    max_pixels: int,
    whole: bool = False,
) -> tuple[dict[str, NDArray[Any]], int]:
    """The model's inputs of the first of `rows` rows, and of how many: as many as have room for their pictures.

    `first` is the place of the first one in the request; `whole`: they cannot be parted. Raises SchemaMismatch with
    every picture and category that is none, LimitExceeded where what cannot be parted has no room.
    """
    faults = list[Fault]()
    pictures = _pictures(arrays, prepared, _Decoding(first, max_pixels, whole, faults, PICTURES_BYTES))
    if not whole:
        rows = min((len(own) for own in pictures.values()), default=rows)
        arrays = {name: array[:rows] for name, array in arrays.items()} if pictures else arrays
    given = dict(arrays)
    for one in prepared:
        match one:
            case Pictures():
                del given[one.input]
                kept = pictures[one.tensor] if whole else pictures[one.tensor][:rows]
                given[one.tensor] = _stacked([each for each in kept if each is not None], one, first, faults)
            case Table():
                columns = [given.pop(column.name, None) for column in one.columns]
                given[one.tensor] = _table(columns, one, first, rows, faults)
    if faults:
        raise mismatch(faults)
    return given, rows


@dataclass(slots=True)
class _Decoding:
    """What is known of the pictures of one slice; `left` is the room that they have."""

    first: int
    max_pixels: int
    whole: bool
    faults: list[Fault]
    left: int

    def all_of(self, files: Sequence[bytes], how: Pictures) -> list[NDArray[Any] | None]:
        """As many as there is room for, one at least; None for what is no picture. They are of one size: the next takes
        what the last did."""
        decoded: list[NDArray[Any] | None] = []
        size = 0
        for row, file in enumerate(files):
            if row and size > self.left:
                self._full(how, len(files))
                break
            picture = _picture(file, how, self.first + row, self.faults, self.max_pixels)
            size = size if picture is None else picture.size * np.dtype(how.dtype).itemsize
            self.left -= 0 if picture is None else size
            decoded.append(picture)
        return decoded

    def _full(self, how: Pictures, count: int) -> None:
        if self.whole:
            raise LimitExceeded(
                f"the {count} pictures of {how.input!r} take more than {PICTURES_BYTES:,} bytes once they are decoded, "
                "and the model takes them all together",
                field=f"inputs.{how.input}",
                found=f"{count} pictures",
                expected=f"at most {PICTURES_BYTES} bytes",
            )


def _pictures(
    arrays: Mapping[str, NDArray[Any]], prepared: Sequence[Prepared], decoding: _Decoding
) -> dict[str, list[NDArray[Any] | None]]:
    """By the tensor that they become."""
    return {
        one.tensor: decoding.all_of(arrays[one.input].tolist(), one) for one in prepared if isinstance(one, Pictures)
    }


def _picture(file: bytes, how: Pictures, row: int, faults: list[Fault], max_pixels: int) -> NDArray[Any] | None:
    """(height, width, channels) of one file."""
    try:
        pixels = prepare_image(file, how.how, max_pixels=max_pixels)
    except InputError as error:
        place = f"inputs.{how.input}[{row}]"
        faults.append(Fault(error.code, error.detail, field=place, found=error.found, expected=error.expected))
        return None
    match how.channels:
        case "RGB":
            return pixels
        case "BGR":
            return pixels[..., ::-1]
        case "L":
            return ((pixels @ _LUMA + 0x8000) >> 16).astype(np.uint8)[..., None]


def _stacked(pictures: Sequence[NDArray[Any]], how: Pictures, first: int, faults: list[Fault]) -> NDArray[Any]:
    """(rows, ...) in the layout and dtype of the tensor."""
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        found = ", ".join(sorted(f"{width}x{height}" for height, width, _ in sizes)[:5])
        said = f"the pictures of {how.input!r} have different sizes, which cannot be computed together"
        place = f"inputs.{how.input}"
        faults.append(Fault(SchemaMismatch.code, said, field=place, found=found, expected="pictures of one size"))
    if not pictures or faults:
        return np.empty(0)
    stacked = np.stack(pictures)
    if how.dtype != "uint8":
        wide = np.float64 if how.dtype == "float64" else np.float32
        stacked = stacked.astype(wide)
        stacked *= wide(how.scale)
        stacked -= np.asarray(how.mean, wide)
        stacked /= np.asarray(how.std, wide)
    ordered = stacked.transpose(0, 3, 1, 2) if how.layout == "NCHW" else stacked
    return np.ascontiguousarray(ordered, how.dtype)


def _table(
    columns: Sequence[NDArray[Any] | None], how: Table, first: int, rows: int, faults: list[Fault]
) -> NDArray[Any]:
    """(rows, width) of the columns that came, None where one did not."""
    rows = next((len(values) for values in columns if values is not None), rows)
    for column, values in zip(how.columns, columns, strict=True):
        if values is not None and len(values) != rows:
            said = f"column {column.name!r} has {len(values)} rows where others of its table have {rows}"
            raise SchemaMismatch(said, field=f"inputs.{column.name}", found=str(len(values)), expected=str(rows))
    table = np.zeros((rows, how.width), np.float64)
    at = 0
    for column, values in zip(how.columns, columns, strict=True):
        if isinstance(column, Numbers):
            table[:, at] = _scaled(column, values)
        else:
            _mark(table[:, at : at + column.width], column, values, first, faults)
        at += column.width
    with np.errstate(over="ignore"):
        narrow = table.astype(how.dtype)
    if not np.isfinite(narrow).all():
        row, place = map(int, np.argwhere(~np.isfinite(narrow))[0])
        said = f"row {first + row} of the table has a value beyond {how.dtype}: {table[row, place]:g}"
        faults.append(Fault(SchemaMismatch.code, said, field="inputs", found=f"{table[row, place]:g}"))
    return narrow


def _scaled(column: Numbers, values: NDArray[Any] | None) -> NDArray[np.float64] | float:
    if values is None:
        return (float(column.impute or 0.0) - column.center) / column.spread
    numbers = values.astype(np.float64)
    if column.impute is not None:
        numbers[np.isnan(numbers)] = column.impute
    return np.asarray((numbers - column.center) / column.spread, np.float64)


def _mark(
    table: NDArray[np.float64], column: Categories, values: NDArray[Any] | None, first: int, faults: list[Fault]
) -> None:
    """Writes a 1 into the place of each row's category."""
    if values is None:
        table[:, column.impute or 0] = 1
        return
    known: dict[Any, int] = {one: place for place, one in enumerate(column.texts or column.numbers)}
    for row, value in enumerate(values.tolist()):
        category = value.decode() if isinstance(value, bytes) else value
        place = known.get(category, column.impute if category == "" else None)
        if place is not None:
            table[row, place] = 1
        elif column.unknown == "refuse":
            expected = ", ".join(map(str, known))
            said = f"{column.name!r} has {category!r}, which is none of its categories"
            place_ = f"inputs.{column.name}[{first + row}]"
            faults.append(Fault(SchemaMismatch.code, said, field=place_, found=str(category)[:80], expected=expected))
