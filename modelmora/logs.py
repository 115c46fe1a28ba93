"""Log lines in one shape: what we say, what libraries say, in every process. docs/logs.md lists events and fields."""

from __future__ import annotations

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from modelmora import tracing

FOREIGN = "library_said"
"""The event of a line that a library wrote, in its own words: `logger` and `message`."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s@]*:[^/?#\s@]*@")


def configure_logging(level: str, format_: str, *, process: str) -> None:
    """From now on lines of this process go to standard error: JSON, or colours on a terminal (`auto` looks).

    `process` says which one it is. A line is written at once and whole: other processes write there too.
    """
    shape, least = _Shape(process, format_), logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shape.made, *shape.rendered],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(shape.of_libraries())
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, least), force=True)
    logging.captureWarnings(capture=True)


class _Shape:
    """How a line comes about: `made`, then `rendered`."""

    def __init__(self, process: str, format_: str) -> None:
        stamped = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self.made: list[Processor] = [structlog.processors.add_log_level, stamped, _Ordered(process)]
        if format_ == "json" or (format_ == "auto" and not sys.stderr.isatty()):
            self.rendered: list[Processor] = [
                structlog.processors.format_exc_info, _without_secrets, structlog.processors.JSONRenderer()
            ]  # fmt: skip
        else:  # the default tracebacks show local variables: payloads, and seconds of work on the event loop
            plain = structlog.dev.plain_traceback
            self.rendered = [_without_secrets, structlog.dev.ConsoleRenderer(exception_formatter=plain)]

    def of_libraries(self) -> logging.Formatter:
        forget = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_foreign, *self.made], processors=[forget, *self.rendered]
        )


class _Ordered:
    """Names the process, and puts the fields that every line has first; `name@version` becomes two fields."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        ordered: EventDict = {
            "timestamp": line.pop("timestamp"),
            "level": line.pop("level"),
            "process": self._process,
            "event": line.pop("event"),
        }
        model = line.get("model")
        if isinstance(model, str) and "@" in model and "version" not in line:
            line["model"], _, line["version"] = model.partition("@")
        ordered.update(line)
        if trace := tracing.trace_id():
            ordered["trace_id"] = trace
        return ordered


def _foreign(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    line["message"], line["event"] = line["event"], FOREIGN
    record = line.get("_record")
    line["logger"] = record.name if isinstance(record, logging.LogRecord) else ""
    return line


def _without_secrets(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """What stands between `://` and `@` in an address is nobody's who reads a log."""
    for key, value in line.items():
        if isinstance(value, str) and "://" in value:
            line[key] = _CREDENTIALS.sub("***@", value)
    return line
