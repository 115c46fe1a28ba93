"""What tests of every kind share: ports, processes, and what may be absent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

import pytest

from load.components.processes import Absent, end, reserve_port, start

__all__ = ["CI", "components", "end", "only_on_linux", "required_in_ci", "reserve_port"]
__all__ += ["running", "start", "wait_until"]

CI = os.environ.get("CI") == "true"


def required_in_ci(reason: str) -> NoReturn:
    """Ends a test that cannot run here: a loud skip on a laptop, a failure where CI=true."""
    if CI:
        pytest.fail(f"CI=true, and {reason}")
    pytest.skip(f"NOT TESTED: {reason}")


def only_on_linux(why: str) -> pytest.MarkDecorator:
    """For a test that needs what other systems do not have."""
    return pytest.mark.skipif(sys.platform != "linux", reason=f"NOT TESTED: {why}")


def wait_until(condition: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Returns as soon as `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come about within {within_s:g} s")
        time.sleep(0.05)


@contextmanager
def components() -> Iterator[None]:
    """A block that starts servers; one that is absent ends the test as `required_in_ci` does."""
    try:
        yield
    except Absent as absent:
        required_in_ci(str(absent))


class Component(Protocol):
    """One of `load.components`."""

    def start(self) -> None: ...

    def kill(self) -> None: ...


@contextmanager
def running(component: Component) -> Iterator[None]:
    """Up within the block, whatever comes of it there; afterwards nobody reads what it kept, so it is killed."""
    try:
        component.start()
        yield
    finally:
        component.kill()
