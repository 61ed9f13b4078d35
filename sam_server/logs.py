"""Log lines: text for people or JSON for machines. One event never looks like two, whatever a client sent."""

import json
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

FORMATS = ("text", "json")
# Attribute of a record that holds values to log by name: `log.info("request", extra={FIELDS: {"status": 200}})`.
FIELDS = "fields"
# The request that the current thread answers; it stands in every line that is logged meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# Line breaks of every kind (str.splitlines), terminal escapes, other control characters, and what is no UTF-8.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NEEDS_QUOTES = re.compile(r'[\s="]')


def configuration(level: str, style: str) -> dict[str, Any]:
    """What `logging.config.dictConfig` takes: every logger of the process writes lines of one format to stderr.

    Args:
        level: least level, such as "info".
        style: one of FORMATS.
    """
    formatter = {"text": TextLines, "json": JsonLines}[style]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            # gunicorn gives its loggers handlers of their own before it comes here.
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
            # The application logs its requests itself, without what clients make up.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


class JsonLines(logging.Formatter):
    """A line is a JSON object: time (UTC), level, logger, message, request_id, exception, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            document["request_id"] = current
        document |= _fields(record)
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        # ASCII alone: orjson leaves line breaks of Unicode as they are, and refuses a lone surrogate of a bad header.
        return json.dumps(document, default=str, separators=(",", ":"))


class TextLines(logging.Formatter):
    """A line is time, level, logger, message and the fields; lines of a traceback are marked with a bar."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback's after it."""
        head = f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"
        values = dict(_fields(record))
        if (current := request_id.get()) is not None:
            values["request_id"] = current
        head += "".join(f" {name}={_value(value)}" for name, value in values.items())
        lines = [head]
        if record.exc_info:
            lines += [f"  | {line}" for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(_CONTROL.sub(_escape, line) for line in lines)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{item}" for name, item in value.items())
    text = str(value)
    return json.dumps(text) if _NEEDS_QUOTES.search(text) else text


def _escape(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
