"""A connection to Redis that fails fast: a dead one costs one request a short time-out, and the others nothing."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sam_server.sessions.errors import StoreAwayError

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds until a server that does not take the connection, or does not answer, counts as away.
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
# How long nobody asks after a failure, in seconds.
REST_SECONDS = 1.0
# Seconds between two signs of life of this process, and looks whether Redis is there.
BEAT_SECONDS = 2.0
# A connection for every thread that a server may have (SAM_THREADS), and then some.
CONNECTIONS = 2048


class RedisLink:
    """A pool of connections with a circuit breaker, and a thread that looks after it."""

    def __init__(self, url: str, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect with the first question.

        Args:
            url: redis:// or rediss:// address.
            prefix: of every key, so that several installations share a Redis.
            clock: seconds that never run backwards.
        """
        self.prefix = prefix
        self._client: Any = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_keepalive=True,
            max_connections=CONNECTIONS,
            # A connection that Redis closed meanwhile is opened again at once; what took too long is not asked twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._clock = clock
        self._resting_until = 0.0
        self._away: str | None = None
        self._refusal: str | None = None
        self._failures = 0
        self._lock = threading.Lock()
        self._beats: list[Callable[[bool], None]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self, question: Callable[[Any], T]) -> T:
        """Ask Redis.

        Args:
            question: takes the client of redis-py.

        Raises:
            StoreAwayError: it is away, or was a moment ago.
        """
        if self._clock() < self._resting_until:
            raise StoreAwayError(self._away or "it failed a moment ago")
        try:
            answer = question(self._client)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._failed(type(error).__name__)
            raise StoreAwayError(type(error).__name__) from error
        except redis.RedisError as error:  # out of memory, read-only, a key of another type: it is there, but refuses
            reason = str(error).split("\n", 1)[0][:100]
            self._refused(reason)
            raise StoreAwayError(reason) from error
        self._succeeded()
        return answer

    def script(self, text: str) -> Callable[[Sequence[str], Sequence[Any]], Any]:
        """A Lua script, which runs as one step; gives a function of keys and arguments to `ask` with."""
        registered = self._client.register_script(text)

        def run(keys: Sequence[str], arguments: Sequence[Any]) -> Any:
            return self.ask(lambda _: registered(keys=keys, args=arguments))

        return run

    @property
    def is_away(self) -> bool:
        """Whether the last question was not answered."""
        return self._away is not None

    @property
    def failures(self) -> int:
        """Questions that failed since the start; those that nobody asked because of them do not count."""
        return self._failures

    def on_beat(self, work: Callable[[bool], None]) -> None:
        """Call this every BEAT_SECONDS while Redis is there; it is told whether Redis was away or started anew."""
        self._beats.append(work)

    def start(self) -> None:
        """Start the thread that looks after it."""
        self._thread = threading.Thread(target=self._live, name="redis-heart", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close the connections."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()

    def _live(self) -> None:
        seen: tuple[str, int] | None = None
        while not self._stop.is_set():
            try:
                now = (self.ask(lambda client: str(client.info("server")["run_id"])), self._failures)
                for work in self._beats:
                    work(now != seen)
                seen = now
            except StoreAwayError:
                seen = None
            except Exception:
                log.exception("the look after Redis failed")
                seen = None
            self._stop.wait(BEAT_SECONDS)

    def _failed(self, reason: str) -> None:
        with self._lock:
            self._failures += 1
            self._resting_until = self._clock() + REST_SECONDS
            first, self._away = self._away is None, reason
        if first:
            log.warning("Redis is away (%s): sessions are kept in this process alone until it is back", reason)

    def _refused(self, reason: str) -> None:
        with self._lock:
            self._failures += 1
            first, self._refusal = self._refusal != reason, reason
        if first:
            log.warning("Redis refuses (%s): what it does not take is kept in this process alone", reason)

    def _succeeded(self) -> None:
        if self._away is None:
            return
        with self._lock:
            back, self._away = self._away is not None, None
        if back:
            log.warning("Redis is back")
