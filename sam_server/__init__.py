"""Segment Anything over HTTP: pictures to masks, masks to groups. This package reads no environment variable."""

__version__ = "0.1.0"
