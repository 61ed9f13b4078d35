"""Log lines: one event is one line, in both formats, whatever was logged."""

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from sam_server import logs

NASTY = 'a\nb\r\nc\x0bd\x85e\u2028f\x1b[31mg "quoted" \ud800'


def record(message: str, *args: object, fields: dict | None = None, exc_info=None) -> logging.LogRecord:
    made = logging.LogRecord("sam_server.test", logging.WARNING, __file__, 1, message, args, exc_info)
    if fields is not None:
        setattr(made, logs.FIELDS, fields)
    return made


@pytest.fixture
def failure():
    try:
        raise ValueError(f"bad {NASTY}")
    except ValueError:
        return sys.exc_info()


def test_json_lines_can_be_read_back():
    made = record("hello %s", NASTY, fields={"status": 200, "phases": {"encode": 1.5}, "header": NASTY})
    line = logs.JsonLines().format(made)
    assert len(line.splitlines()) == 1
    document = json.loads(line)
    assert document["message"] == f"hello {NASTY}"
    assert document["header"] == NASTY
    assert (document["level"], document["logger"]) == ("warning", "sam_server.test")
    assert (document["status"], document["phases"]) == (200, {"encode": 1.5})
    assert datetime.fromisoformat(document["time"]).tzinfo == UTC
    assert "request_id" not in document


def test_json_lines_hold_a_traceback_in_one_line(failure):
    line = logs.JsonLines().format(record("failed", exc_info=failure))
    assert len(line.splitlines()) == 1
    assert "ValueError: bad a\nb" in json.loads(line)["exception"]


def test_text_lines_are_one_line():
    line = logs.TextLines().format(record("hello %s", NASTY, fields={"status": 200, "header": NASTY}))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "WARNING sam_server.test: hello a\\nb\\r\\nc" in line
    assert " status=200 header=" in line
    line.encode()


def test_text_fields_cannot_be_forged():
    line = logs.TextLines().format(record("request", fields={"route": "x status=500", "phases": {"a": 1, "b": 2}}))
    assert line.endswith('route="x status=500" phases=a:1,b:2')


def test_text_lines_mark_those_of_a_traceback(failure):
    first, *rest = logs.TextLines().format(record("failed", exc_info=failure)).splitlines()
    assert first.endswith("failed")
    assert rest
    assert all(line.startswith("  | ") for line in rest)


@pytest.mark.parametrize("formatter", [logs.JsonLines, logs.TextLines])
def test_the_request_stands_in_every_line(formatter):
    token = logs.request_id.set("abc-1")
    try:
        assert "abc-1" in formatter().format(record("something happened"))
    finally:
        logs.request_id.reset(token)
    assert "abc-1" not in formatter().format(record("something happened"))


def test_there_is_a_configuration_for_every_format():
    for style in logs.FORMATS:
        made = logs.configuration("warning", style)
        assert made["root"]["level"] == "WARNING"
        assert issubclass(made["formatters"]["lines"]["()"], logging.Formatter)
