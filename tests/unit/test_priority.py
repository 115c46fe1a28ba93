"""Interactive work overtakes bulk work, a counted number of times."""

from modelmora.domain.priority import PATIENCE, Turn, next_turn, share_out

INTERACTIVE = Turn(since=5.0, interactive=True)
BULK = Turn(since=1.0, interactive=False)


def test_interactive_queues_go_before_older_bulk() -> None:
    assert next_turn([BULK, INTERACTIVE]) == 1


def test_among_equals_the_oldest_goes_first() -> None:
    assert next_turn([INTERACTIVE, Turn(since=4.0, interactive=True)]) == 1
    assert next_turn([BULK, Turn(since=2.0, interactive=False)]) == 0


def test_bulk_that_was_passed_over_often_enough_goes_first() -> None:
    patient = Turn(since=1.0, interactive=False, overtaken=PATIENCE - 1)
    assert next_turn([INTERACTIVE, patient]) == 0
    assert next_turn([INTERACTIVE, Turn(since=9.0, interactive=False, overtaken=PATIENCE)]) == 1


def test_bulk_fills_what_interactive_items_leave() -> None:
    assert share_out(8, interactive=3, bulk=20, overtaken=0) == (3, 5)
    assert share_out(8, interactive=30, bulk=20, overtaken=0) == (8, 0)
    assert share_out(8, interactive=0, bulk=2, overtaken=0) == (0, 2)


def test_after_its_patience_bulk_goes_first_in_the_batch() -> None:
    assert share_out(8, interactive=30, bulk=3, overtaken=PATIENCE) == (5, 3)
    assert share_out(8, interactive=30, bulk=20, overtaken=PATIENCE) == (0, 8)
