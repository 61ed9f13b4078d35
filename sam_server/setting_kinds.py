"""What the text of a setting may be: parsers that say in words what they take."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlsplit

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
BYTE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What a setting's text may be.

    Attributes:
        parse: text to value; raises ValueError.
        options: what may be written, in words.
        show: value to text; `parse` reads it back.
    """

    parse: Callable[[str], T]
    options: str
    show: Callable[[T], str] = str


def _flag(text: str) -> bool:
    if text.lower() in TRUE_WORDS:
        return True
    if text.lower() in FALSE_WORDS:
        return False
    raise ValueError(text)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(text)
    return text


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(text)
    return text


def words(text: str) -> tuple[str, ...]:
    """The words between commas; empty ones are left out."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def choice(*options: str) -> Kind[str]:
    """One of a few words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in options:
            raise ValueError(text)
        return text.lower()

    return Kind(parse, ", ".join(options))


def text_of(options: str) -> Kind[str]:
    """Any text."""
    return Kind(str, options)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number from low to high."""

    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return Kind(parse, f"{low} to {high}")


def seconds(low: float) -> Kind[float]:
    """A finite time, in seconds."""

    def parse(text: str) -> float:
        number = float(text)
        if not low <= number < float("inf"):
            raise ValueError(text)
        return number

    return Kind(parse, f"seconds, at least {low:g}", "{:g}".format)


def byte_count(low: int) -> Kind[int]:
    """A number of bytes, with or without a unit."""

    def parse(text: str) -> int:
        found = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
        if found is None:
            raise ValueError(text)
        number = int(found[1]) * BYTE_UNITS[found[2]]
        if number < low:
            raise ValueError(text)
        return number

    return Kind(parse, f"bytes, or with K, M or G (of 1024), at least {_show_bytes(low)}", _show_bytes)


def _show_bytes(count: int) -> str:
    for unit in ("G", "M", "K"):
        if count and count % BYTE_UNITS[unit] == 0:
            return f"{count // BYTE_UNITS[unit]}{unit}"
    return str(count)


REDIS_URL: Kind[str | None] = Kind(_redis_url, "redis:// or rediss:// URL", lambda value: value or "")
FLAG = Kind(_flag, "true, false", lambda value: str(value).lower())
URL: Kind[str | None] = Kind(_url, "http or https URL", lambda value: value or "")


def words_of(options: str) -> Kind[tuple[str, ...]]:
    """Words between commas."""
    return Kind(words, options, ",".join)
