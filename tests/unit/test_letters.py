"""Dead letters and the way back: what is replayed is taken in as if it had come for the first time."""

from __future__ import annotations

import pytest

from modelmora.errors import DependencyUnavailable, ImageNotFound, InvalidInput, OutOfMemory
from modelmora.usecases.pictures.letters import PAGE, Letters
from tests.event_line import KEY, TRIES, Line


class Setting:
    """Letters over a line; `nudges` counts how often the relay was told."""

    def __init__(self) -> None:
        self.line, self.nudges = Line(), 0
        self.letters = Letters(self.line.database.dead_letters, source="/operator", nudge=self.nudge)

    def nudge(self) -> None:
        self.nudges += 1

    async def carried(self) -> None:
        """All that waits is taken in."""
        outbox = self.line.database.outbox
        due = [one for one in await outbox.due(limit=10_000) if one.topic == "modelmora.images"]
        await outbox.carried([one.number for one in due])
        await self.line.ingest([self.line.delivery(one.key, one.value, one.headers) for one in due])


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_what_was_given_up_is_indexed_after_a_replay(setting: Setting) -> None:
    line = setting.line
    line.world.embedder.fails = {b"a": InvalidInput("a decoder that cannot")}
    await line.ingest(line.coming("a"))
    (letter,) = (await setting.letters.find()).items
    line.world.embedder.fails = {}
    assert await setting.letters.replay([letter.id, "nobody"]) == 1
    assert setting.nudges == 1
    await setting.carried()
    assert line.indexed() == ["a"]
    assert line.database.states("a") == {KEY: "indexed"}
    assert await line.database.dead_letters.count() == 0


async def test_a_replayed_picture_has_all_its_tries_again(setting: Setting) -> None:
    line = setting.line
    line.world.embedder.fails = {b"a": OutOfMemory("too large")}
    delivery = line.announced(line.stored("a"), id_="1")
    for _ in range(TRIES):
        await line.ingest([delivery])
        line.time.pass_(1_000)
        await line.database.pictures.announce_again(stuck_s=9e9, tries=TRIES, limit=9, source="/s")
    assert line.database.states("a") == {KEY: "dead"}
    line.database.store.outbox.clear()
    await setting.letters.replay_all()
    await setting.carried()
    (way,) = line.database.store.of("a")
    assert (way.state, way.attempts) == ("retry_wait", 1)


async def test_a_message_that_could_not_be_read_goes_as_it_came_and_fails_anew(setting: Setting) -> None:
    line = setting.line
    await line.ingest([line.delivery(b"k", b"no json")])
    assert await setting.letters.replay_all(code="invalid_input") == 1
    await setting.carried()
    letters = (await setting.letters.find()).items
    assert sorted(letter.replayed_at is None for letter in letters) == [False, True]
    assert {letter.value for letter in letters} == {b"no json"}


async def test_what_could_not_be_registered_is_taken_in_after_a_replay(setting: Setting) -> None:
    line = setting.line
    await line.ingest([line.foreign()])
    (letter,) = (await setting.letters.find(code="image_not_found")).items
    assert letter.picture_id == ""
    line.files.objects["s3://pictures/f"] = b"f"
    await setting.letters.replay([letter.id])
    await setting.carried()
    assert line.indexed() == ["f"]


async def test_all_of_them_are_replayed_once_however_many_pages_they_are(setting: Setting) -> None:
    line = setting.line
    await line.ingest([line.delivery(b"", b"%d" % n + b"no json") for n in range(PAGE + 20)])
    assert await setting.letters.replay_all(code="something_else") == 0
    assert await setting.letters.replay_all() == PAGE + 20
    assert await setting.letters.replay_all() == 0


async def test_letters_are_shown_and_forgotten(setting: Setting) -> None:
    line = setting.line
    await line.ingest([line.delivery(b"", b"no json")])
    (letter,) = (await setting.letters.find()).items
    assert await setting.letters.get(letter.id) == letter
    assert await setting.letters.remove([letter.id]) == 1
    with pytest.raises(ImageNotFound):
        await setting.letters.get(letter.id)


async def test_the_database_away_is_told(setting: Setting) -> None:
    setting.line.database.store.away = DependencyUnavailable("away")
    with pytest.raises(DependencyUnavailable):
        await setting.letters.replay_all()
