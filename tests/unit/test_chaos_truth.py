"""The judge of chaos: what it calls lost, twice, stray and silent."""

from __future__ import annotations

from typing import Any

from load.chaos.announcements import Announced
from load.chaos.truth import Found, judged
from tests.pictures import picture

GOOD, OTHER, SPOILT = (Announced(picture(n), n != "spoilt") for n in ("good", "other", "spoilt"))
ALL = (GOOD, OTHER, SPOILT)


def found(**told: Any) -> Found:
    whole: dict[str, Any] = {
        "ways": {"good": ["indexed"], "other": ["indexed"], "spoilt": ["rejected"]},
        "letters": {"spoilt": "unsupported_media"},
        "points": {"good": 1, "other": 1},
    }
    return Found(**{**whole, **told})


def test_every_picture_in_its_place_holds() -> None:
    truth = judged(ALL, found())
    assert truth.holds
    assert (truth.indexed, truth.given_up, truth.reasons) == (2, 1, {"unsupported_media": 1})


def test_a_picture_without_a_record_a_point_or_an_end_is_lost() -> None:
    records = {"good": ["indexed"], "spoilt": ["rejected"]}
    assert judged(ALL, found(ways=records)).lost == ["other"]
    assert judged(ALL, found(points={"good": 1})).lost == ["other"]
    assert judged(ALL, found(ways={**records, "other": ["retry_wait"]})).lost == ["other"]


def test_points_that_are_there_twice_or_should_not_be_are_told() -> None:
    assert judged(ALL, found(points={"good": 2, "other": 1})).twice == ["good"]
    truth = judged(ALL, found(points={"good": 1, "other": 1, "nobody": 1, "spoilt": 1}))
    assert sorted(truth.strays) == ["nobody", "spoilt"]
    assert not truth.holds


def test_a_letter_without_a_reason_does_not_hold() -> None:
    assert judged(ALL, found(letters={"spoilt": ""})).silent == ["spoilt"]
