"""What can be wrong with settings, told in one line per variable."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence

from modelmora.errors import Fault, ValidationFailed

_PASSWORD = re.compile(r"(?<=://)([^:@/\s]*):[^@\s]*(?=@)")


class SettingsError(ValidationFailed):
    """Some variables are wrong: one fault each, all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        head = "one setting is wrong" if len(faults) == 1 else f"{len(faults)} settings are wrong"
        super().__init__("\n  ".join([f"{head}:", *(fault.detail for fault in faults)]), faults=faults)


def masked(value: str) -> str:
    """`value` without the password that a URL in it carries."""
    return _PASSWORD.sub(r"\1:***", value)


def wrong(variable: str, got: str, takes: str) -> Fault:
    """The fault of one variable."""
    found = repr(masked(got)[:200])
    return Fault(
        ValidationFailed.code, f"{variable}: got {found}, takes {takes}", field=variable, found=found, expected=takes
    )


def unknown(variables: Collection[str], known: Collection[str]) -> Iterator[Fault]:
    """One fault for each variable that nothing reads, with the nearest one that something does."""
    for variable in variables:
        near = difflib.get_close_matches(variable, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`modelmora config` lists those there are"
        yield Fault(
            ValidationFailed.code,
            f"{variable}: there is no such setting; {hint}",
            field=variable,
            found=variable,
            expected=near[0] if near else None,
        )
