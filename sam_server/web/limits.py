"""How often one client may ask: limits of requests per time, counted here or, for several servers, in Redis."""

import logging
import time

from limits import parse_many
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

log = logging.getLogger(__name__)

# Seconds that an answer of Redis may take, and that Redis is left alone after it failed: meanwhile each server counts
# for itself.
REDIS_PATIENCE = 0.5
REDIS_PAUSE = 10.0


class RateLimits:
    """Counts what clients ask for. Safe to use from many threads."""

    def __init__(self, text: str, redis_url: str | None = None) -> None:
        """Read the limits.

        Args:
            text: such as "10/second;600/minute"; empty for none.
            redis_url: where all servers count together; each for itself if None.

        Raises:
            ValueError: the text cannot be read.
        """
        self._limits = parse_many(text) if text else []
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._paused_until = 0.0
        if self._limits and redis_url is not None:
            options = {"socket_timeout": REDIS_PATIENCE, "socket_connect_timeout": REDIS_PATIENCE}
            storage = storage_from_string(redis_url, wrap_exceptions=True, **options)
            self._shared = SlidingWindowCounterRateLimiter(storage)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._limits)

    def take(self, client: str) -> float | None:
        """Count one request of a client.

        Args:
            client: whoever it is counted for.

        Returns:
            None if it may pass, else seconds until it is worth asking again.
        """
        if self._shared is not None and time.monotonic() >= self._paused_until:
            try:
                return self._take(self._shared, client)
            except StorageError as error:
                self._paused_until = time.monotonic() + REDIS_PAUSE
                log.warning("rate limits are counted in this process alone, since Redis fails: %s", error)
        return self._take(self._here, client)

    def _take(self, limiter: SlidingWindowCounterRateLimiter, client: str) -> float | None:
        waits = [
            limiter.get_window_stats(limit, client).reset_time - time.time()
            for limit in self._limits
            if not limiter.hit(limit, client)
        ]
        return max(waits) if waits else None
