"""Errors as a person reads them: what went wrong, its code, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, Final

import click

from modelmora.errors import ModelMoraError

_HINTS: Final = {
    "overloaded": "the server is busy: try again later, or with a lower --concurrency",
    "rate_limited": "try again later, or with a lower --concurrency",
    "quota_exceeded": "the allowance is used up: try again in the next period",
    "unauthenticated": "put a valid token into MODELMORA_TOKEN",
    "permission_denied": "the token in MODELMORA_TOKEN lacks the permission: ask who runs the server",
    "model_not_found": "`modelmora models` lists the models there are",
    "version_not_found": "`modelmora versions NAME` shows the versions there are",
    "model_loading": "`modelmora pull NAME` fetches its files and shows how far it is",
    "model_load_failed": "`modelmora models NAME` shows the state and the reason",
    "artifact_corrupt": "fetch the model's files again: `modelmora pull NAME`",
    "dependency_unavailable": "`modelmora health` shows which part is away",
    "deadline_exceeded": "give it more time with --timeout SECONDS",
    "out_of_memory": "make room with `modelmora unload NAME`, or raise the group's memory in ModelRegistry.yaml",
    "limit_exceeded": "send less at once; the server's `GET /api/v1/limits` tells what it takes",
    "capability_missing": "`modelmora models` shows what each model is for",
    "internal": "the reason is in the server's log",
}
_NO_SERVER: Final = (
    "start a server with `modelmora serve` (in a checkout: `make serve`), or name one with --url and --control-url"
)


def hint(error: ModelMoraError) -> str | None:
    """What to do about it, as far as its code tells."""
    if error.code == "dependency_unavailable" and error.field == "url":  # no ModelMora answered
        return _NO_SERVER
    return _HINTS.get(error.code)


def told(error: ModelMoraError) -> str:
    """One line: detail, what was found and expected, notes, code."""
    parts = [error.detail]
    if error.expected:
        parts.append(f"expected {error.expected}" + (f", found {error.found}" if error.found else ""))
    parts += getattr(error, "__notes__", [])
    return f"{'; '.join(parts)} [{error.code}]"


def list_failures(failed: Iterable[tuple[str, ModelMoraError]]) -> None:
    """One line each on the standard error."""
    for name, error in failed:
        click.echo(f"{name}: {told(error)}", err=True)


class Failure(click.ClickException):
    """Ends the command with exit code 1."""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = advice

    @classmethod
    def of(cls, error: ModelMoraError, *, further: str | None = None) -> Failure:
        advice = [line for line in (hint(error), further) if line]
        return cls(told(error), advice="\n  -> ".join(advice) or None)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)
        if self.advice:
            click.echo(f"  -> {self.advice}", err=True)


class Program(click.Group):
    """A group whose commands end in a line and an exit code, never in a traceback (unless --debug)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except ModelMoraError as error:
            if ctx.params["debug"]:
                raise
            raise Failure.of(error) from error
        except Exception as error:
            if ctx.params["debug"]:
                raise
            reason = f"{type(error).__name__}: {error}"
            raise Failure(reason, advice="run `modelmora --debug ...` to see where this comes from") from error
