"""API keys: known by their hash alone, and the owner that a key stands for."""

import hashlib
import hmac
import re
from collections.abc import Sequence

# How the hash of a key is written in a setting.
HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}")
# Characters of an owner's name.
_OWNER_LENGTH = 32


def hash_key(key: str) -> str:
    """A key as it may stand in a setting: `sha256:` and 64 hexadecimal digits.

    A plain SHA-256 is enough for what a machine made up: nobody guesses 32 random bytes, however fast he hashes.
    """
    return HASHED + hashlib.sha256(key.encode()).hexdigest()


def hashed(entry: str) -> str:
    """An entry of the setting as a hash: one that is a hash already stays as it is.

    Raises:
        ValueError: it begins like a hash and is none.
    """
    if not entry.startswith(HASHED):
        return hash_key(entry)
    digest = entry.removeprefix(HASHED).lower()
    if not _HEX.fullmatch(digest):
        raise ValueError(f"{HASHED} is followed by 64 hexadecimal digits")
    return HASHED + digest


class KeyRing:
    """The keys that open the server."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Take keys, plain or as `hash_key` writes them; plain ones are not kept."""
        self._hashes = tuple(hashed(entry).encode() for entry in entries)

    def __bool__(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self._hashes)

    def owner_of(self, key: str) -> str | None:
        """The owner that a key stands for, 32 hexadecimal digits that tell nothing of the key; None for a wrong key."""
        given = hash_key(key).encode()
        # Every hash is compared to its end, so that the time tells nothing about which one nearly matched.
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if not any(matches):
            return None
        return hashlib.sha256(b"owner " + given).hexdigest()[:_OWNER_LENGTH]
