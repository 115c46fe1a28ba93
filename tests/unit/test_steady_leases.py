"""A lease that is held is not asked for at each look, and never believed to be held longer than it is."""

from __future__ import annotations

import pytest

from modelmora.usecases.steady_leases import SteadyLeases


class Asked:
    """The port `Leases`; `free` says whether it is given, `asked` how often it was asked."""

    def __init__(self) -> None:
        self.free, self.asked, self.fence = True, 0, 1
        self.released: list[tuple[str, str]] = []

    async def acquire(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        self.asked += 1
        return self.fence if self.free else None

    async def release(self, name: str, holder: str) -> None:
        self.released.append((name, holder))


class Setting:
    def __init__(self) -> None:
        self.now, self.asked = 1_000.0, Asked()
        self.leases = SteadyLeases(self.asked, clock=lambda: self.now)

    async def take(self, name: str = "sweep") -> int | None:
        return await self.leases.acquire(name, "me", ttl_s=10.0)


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_held_lease_is_asked_for_again_when_a_quarter_is_over(setting: Setting) -> None:
    found = []
    for _ in range(26):
        found.append(await setting.take())
        setting.now += 0.1
    assert found == [1] * 26
    assert setting.asked.asked == 2


async def test_each_name_and_a_lost_one_are_asked_for(setting: Setting) -> None:
    await setting.take()
    await setting.take("outbox")
    assert setting.asked.asked == 2
    setting.now, setting.asked.free = setting.now + 5.0, False
    assert [await setting.take() for _ in range(3)] == [None] * 3
    assert setting.asked.asked == 5
    setting.asked.free, setting.asked.fence = True, 2
    assert [await setting.take() for _ in range(3)] == [2] * 3
    assert setting.asked.asked == 6


async def test_one_that_was_given_back_is_not_held(setting: Setting) -> None:
    await setting.take()
    await setting.leases.release("sweep", "me")
    assert setting.asked.released == [("sweep", "me")]
    setting.asked.free = False
    assert await setting.take() is None
