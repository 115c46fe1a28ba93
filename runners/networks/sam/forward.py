"""A SAM in memory: pictures encoded once and remembered, prompts decoded, masks as run lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from segment_anything.utils.transforms import (
    ResizeLongestSide,
)

from modelmora.domain.description import Description
from modelmora.domain.models import Task
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, OutOfMemory
from runners import devices
from runners.inputs.prompts import ABSENT, FOREGROUND
from runners.networks import exhaustion
from runners.networks.cores import use_threads
from runners.networks.layers import telling
from runners.networks.linears import packed_bytes
from runners.networks.sam.cache import Encoded, EncodedPictures
from runners.networks.sam.masks import full_size, measures, run_lengths, stability
from runners.payload import Parcel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runners.provider import Tell

TOGETHER = 8
"""Prompts decoded at once. Each takes some 30 MB meanwhile."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Decoded:
    """Masks of alike prompts: small `logits` (masks, h, w), `scores` (masks,), `of` (masks,) which prompt, `which`
    (masks,) of its masks."""

    logits: torch.Tensor
    scores: torch.Tensor
    of: NDArray[np.int32]
    which: NDArray[np.int32]

    def only(self, kept: torch.Tensor) -> Decoded:
        """Those of the marks `kept`."""
        marks = kept.cpu().numpy()
        return Decoded(logits=self.logits[kept], scores=self.scores[kept], of=self.of[marks], which=self.which[marks])

    def finite(self) -> torch.Tensor:
        """Marks of the masks whose prompt has no mask and no score that is not."""
        each = torch.isfinite(self.logits).all(-1).all(-1) & torch.isfinite(self.scores)
        masks = int(self.which.max(initial=0)) + 1
        return each.view(-1, masks).all(dim=1).repeat_interleave(masks)


Computed: TypeAlias = "dict[bytes, Encoded | InternalError | None]"
"""What came of the pictures of one batch."""


class Sam:
    """Pictures and prompts to masks; `runners/inputs/prompts.py` says what the parcels hold."""

    precision = "fp32"

    def __init__(
        self, network: Any, description: Description, *, device: str, threads: int = 0, cache_bytes: int = 0
    ) -> None:
        """`threads` are for batches that ask for none (0: as they are)."""
        self._network = network
        self._threads = threads
        self._scaling = ResizeLongestSide(network.image_encoder.img_size)
        self._positions = network.prompt_encoder.get_dense_pe()
        self.pictures = EncodedPictures(cache_bytes, _place_bytes(network))
        self.description = description
        self.device = device
        tensors = (*network.parameters(), *network.buffers())
        weights = sum(t.numel() * t.element_size() for t in tensors) + packed_bytes(network)
        self.weight_bytes = weights + cache_bytes

    def sample(self, task: Task) -> Parcel:
        """Of a picture that is not kept: each forward encodes it."""
        side = self._network.image_encoder.img_size
        tensors: dict[str, NDArray[Any]] = {
            "digest": np.zeros(0, dtype=np.uint8),
            "size": np.array([side, side], dtype=np.int32),
            "pixels": np.zeros((side, side, 3), dtype=np.uint8),
            "points": np.full((TOGETHER, 1, 2), side / 2),
            "labels": np.full((TOGETHER, 1), FOREGROUND, dtype=np.int32),
            "boxes": np.full((TOGETHER, 4), np.nan),
        }
        return Parcel(tensors=tensors, options={"multimask": [True] * TOGETHER, "logits": False})

    def segment(
        self, batch: Sequence[Parcel], *, threads: int = 0, tell: Tell | None = None
    ) -> Sequence[Outcome[Parcel]]:
        if self.device == "cpu":
            use_threads(threads or self._threads)
        computed: Computed = {}
        with torch.inference_mode():
            return [self._outcome(parcel, computed, tell) for parcel in batch]

    def close(self) -> None:
        self._network = None
        self.pictures.clear()

    def _outcome(self, asked: Parcel, computed: Computed, tell: Tell | None) -> Outcome[Parcel]:
        """What is not finite fails alone. Raises OutOfMemory, whose field says of what: `image` or `prompts`."""
        try:
            return Ok(self._answer(asked, computed, tell))
        except InternalError as error:
            return Failed(error)

    def _answer(self, asked: Parcel, computed: Computed, tell: Tell | None) -> Parcel:
        picture = self._once(asked, computed, tell)
        if picture is None:
            return Parcel(tensors={}, options={"unknown": True})
        size = (int(asked.tensors["size"][0]), int(asked.tensors["size"][1]))
        found = [columns for alike in _alike(asked) for columns in self._found(picture, asked, alike, size)]
        return Parcel(tensors={name: np.concatenate([one[name] for one in found]) for name in found[0]})

    def _once(self, asked: Parcel, computed: Computed, tell: Tell | None) -> Encoded | None:
        """As `_picture`, but once in a batch, also where it is not kept; one without a digest is like no other."""
        digest = asked.tensors["digest"].tobytes()
        if not digest:
            return self._picture(asked, tell)
        if digest not in computed:
            try:
                computed[digest] = self._picture(asked, tell)
            except InternalError as error:
                computed[digest] = error
        found = computed[digest]
        if isinstance(found, InternalError):
            raise found
        return found

    def _picture(self, asked: Parcel, tell: Tell | None) -> Encoded | None:
        pixels = asked.tensors.get("pixels")

        def encode() -> Encoded:
            with self._fitting("a picture", "image"):
                given = torch.from_numpy(np.array(pixels)).to(self.device).permute(2, 0, 1).unsqueeze(0)
                with telling(self._network.image_encoder, tell):
                    features = self._network.image_encoder(self._network.preprocess(given))
            if not torch.isfinite(features).all():
                said = f"{self.description.model} gave an embedding that is not finite for this picture"
                raise InternalError(said, field="image")
            return Encoded(features, (given.shape[-2], given.shape[-1]))

        return self.pictures.get(asked.tensors["digest"].tobytes(), None if pixels is None else encode)

    def _found(
        self, picture: Encoded, asked: Parcel, prompts: NDArray[np.int32], size: tuple[int, int]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """The answer's columns for alike prompts, `TOGETHER` at a time, or fewer from where that is too much."""
        start, together = 0, TOGETHER
        while start < len(prompts):
            rows = prompts[start : start + together]
            try:
                with self._fitting(f"{len(rows)} prompts", "prompts"):
                    columns = self._columns_of(picture, asked, rows, size)
            except OutOfMemory:
                if len(rows) == 1:
                    raise
                devices.release()
                together = len(rows) // 2
                continue
            yield columns
            start += len(rows)

    @contextmanager
    def _fitting(self, what: str, field: str) -> Iterator[None]:
        """Raises OutOfMemory naming the field."""
        try:
            with exhaustion.told_as_one(f"{what} for {self.description.model}: no room in the memory of {self.device}"):
                yield
        except OutOfMemory as error:
            error.field = field
            raise

    def _columns_of(
        self, picture: Encoded, asked: Parcel, rows: NDArray[np.int32], size: tuple[int, int]
    ) -> dict[str, NDArray[Any]]:
        decoded = self._decode(picture, asked, rows, size)
        finite = decoded.finite()
        if (which := asked.tensors.get("which")) is not None:
            _check_finite(finite, self.description.model)
            return _logits(decoded.only(torch.from_numpy(decoded.which == which[decoded.of]).to(finite.device)))
        if "everything" in asked.options:
            _check_finite(finite, self.description.model)
        return self._finish(picture, decoded.only(finite), size, asked.options)

    def _decode(self, picture: Encoded, asked: Parcel, rows: NDArray[np.int32], size: tuple[int, int]) -> Decoded:
        """The masks of alike prompts, each as `SamPredictor.predict` makes them alone."""
        sparse, dense = self._network.prompt_encoder(**self._prompts(asked, rows, size))
        logits, scores = self._network.mask_decoder(
            image_embeddings=picture.features,
            image_pe=self._positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=asked.options["multimask"][rows[0]],
        )
        prompts, masks = scores.shape
        return Decoded(
            logits=logits.flatten(0, 1),
            scores=scores.flatten(),
            of=np.repeat(rows, masks),
            which=np.tile(np.arange(masks, dtype=np.int32), prompts),
        )

    def _prompts(self, asked: Parcel, rows: NDArray[np.int32], size: tuple[int, int]) -> dict[str, Any]:
        """As the prompt encoder takes them, in pixels of the scaled picture."""
        labels, boxes = asked.tensors["labels"][rows], asked.tensors["boxes"][rows]
        count, masked = int((labels[0] != ABSENT).sum()), _masked(asked)
        points = self._scaling.apply_coords(asked.tensors["points"][rows][:, :count], size)
        corners = self._scaling.apply_boxes(boxes, size)
        has_masks = int(rows[0]) in masked
        return {
            "points": (self._there(points), self._there(labels[:, :count], torch.int)) if count else None,
            "boxes": None if np.isnan(boxes[0]).any() else self._there(corners),
            "masks": self._there(np.stack([masked[int(row)] for row in rows])[:, None]) if has_masks else None,
        }

    def _there(self, values: NDArray[Any], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.as_tensor(values, dtype=dtype, device=self.device)

    def _finish(
        self, picture: Encoded, decoded: Decoded, size: tuple[int, int], options: Mapping[str, Any]
    ) -> dict[str, NDArray[Any]]:
        """The masks at the picture's size, as the answer has them; of everything those that pass."""
        thresholds: Mapping[str, float] | None = options.get("everything")
        if thresholds is not None and thresholds["min_score"] > 0:
            decoded = decoded.only(decoded.scores > thresholds["min_score"])
        encoded, stable = list[dict[str, Any]](), [decoded.scores.new_empty(0)]
        for _, logits in full_size(self._network, decoded.logits, picture.size, size):
            encoded += run_lengths(logits > self._network.mask_threshold)
            if thresholds is not None:
                stable.append(stability(logits))
        columns = _columns(decoded, encoded, logits=options["logits"])
        if thresholds is None:
            return columns
        columns["which"] = decoded.which
        columns["stability"] = torch.cat(stable).cpu().numpy()
        passing = columns["stability"] >= np.float32(thresholds["min_stability"])
        return {name: column[passing & (columns["areas"] > 0)] for name, column in columns.items()}


def _place_bytes(network: Any) -> int:
    """What the embedding of a picture takes: float32 (channels, tokens, tokens)."""
    height, width = network.prompt_encoder.image_embedding_size
    return int(4 * network.prompt_encoder.embed_dim * height * width)


def _check_finite(finite: torch.Tensor, model: str) -> None:
    """Points of a grid cannot be at fault, and what was left out would look like nothing there."""
    if not finite.all():
        raise InternalError(f"{model} gave masks that are not finite for this picture")


def _logits(decoded: Decoded) -> dict[str, NDArray[Any]]:
    return {"of": decoded.of, "logits": decoded.logits.cpu().numpy()}


def _alike(asked: Parcel) -> list[NDArray[np.int32]]:
    """Places of prompts that the decoder takes at once: as many points, box or not, mask or not, one or three."""
    labels, boxes, masked = asked.tensors["labels"], asked.tensors["boxes"], _masked(asked)
    groups: defaultdict[tuple[int, bool, bool, bool], list[int]] = defaultdict(list)
    for row in range(len(labels)):
        points, boxed = int((labels[row] != ABSENT).sum()), not np.isnan(boxes[row]).any()
        groups[points, boxed, row in masked, asked.options["multimask"][row]].append(row)
    return [np.array(rows, dtype=np.int32) for rows in groups.values()]


def _masked(asked: Parcel) -> dict[int, NDArray[np.float32]]:
    """The earlier masks by the place of their prompt."""
    rows = asked.tensors.get("masked")
    return {} if rows is None else dict(zip(rows.tolist(), asked.tensors["masks"], strict=True))


def _columns(decoded: Decoded, encoded: list[dict[str, Any]], *, logits: bool) -> dict[str, NDArray[Any]]:
    counts = np.empty(len(encoded), dtype=object)
    counts[:] = [one["counts"] for one in encoded]
    areas, boxes = measures(encoded)
    columns: dict[str, NDArray[Any]] = {
        "of": decoded.of,
        "counts": counts,
        "scores": decoded.scores.cpu().numpy(),
        "areas": areas,
        "boxes": boxes,
    }
    return {**columns, "logits": decoded.logits.cpu().numpy()} if logits else columns
