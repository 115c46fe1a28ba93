"""Which tiers run (slow where CI=true or asked for, nightly only when asked for); logs and signals of all tests."""

from __future__ import annotations

import signal

import pytest
import structlog

from tests.support import CI

# Plain lines to standard output, where pytest collects them; the default's tracebacks take seconds each.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer()])

# A shell that starts the run in the background has SIGINT ignored, and every process of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what belongs to another tier, and says so."""
    chosen = str(config.option.markexpr)
    closed = {
        "slow": None if CI or "slow" in chosen else "slow: run with CI=true or `-m slow`",
        "nightly": None if "nightly" in chosen else "nightly: run with `-m nightly`",
    }
    for item in items:
        for tier, reason in closed.items():
            if reason and item.get_closest_marker(tier):
                item.add_marker(pytest.mark.skip(reason=reason))
