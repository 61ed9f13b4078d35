"""What all requests share, hung on the Flask application."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from flask import current_app

from sam_server.images import ImageLimits
from sam_server.jobs.gate import InferenceGate
from sam_server.jobs.queue import JobQueue
from sam_server.sessions.store import SessionStore
from sam_server.web.keys import KeyRing
from sam_server.web.limits import RateLimits
from sam_server.web.metrics import Metrics, StateCollector
from sam_server.web.model import LOADING_RETRY_AFTER, LoadedModel, ModelNotReadyError, ModelSlot
from sam_server.web.problems import Problem, busy

EXTENSION = "mask_grouping_server"
# Seconds after which another server, or the next one in this place, may be there.
STOPPING_RETRY_AFTER = 5.0


@dataclass(frozen=True)
class WebSettings:
    """The settings that HTTP needs, as plain values.

    Attributes:
        image_limits: bytes and pixels of one picture.
        max_prompts: prompts in one call.
        max_points: points in one prompt.
        cache_bytes: memory that sessions may take together.
        session_ttl: seconds until an unused session is forgotten.
        concurrency: computations of the model at once.
        queue_length: computations that may wait.
        queue_timeout: how long one may wait, in seconds.
        request_deadline: seconds after which the computations of a request are not begun any more; jobs have none.
        encode_batch: pictures that are encoded together where they wait at the same time; 0 for what the device likes.
        stuck_after: seconds after which a computation that does not end makes /health fail.
        api_keys: one of them must come with every request, as it is or as `keys.hash_key` writes it; none needed if
            empty.
        rate_limit: requests per time of one key, or of one address where there are no keys; none if empty.
        redis_url: where the servers that work together count them, and keep their sessions and jobs.
        redis_prefix: of every key there.
        jobs: where jobs run when there is a Redis: "process" for here, "celery" for workers, "auto" for workers while
            one is alive.
        cors_origins: origins whose pages may call this server; "*" for all.
        metrics: who may read /metrics: "key", those with an API key; "open", everybody; "off", nobody.
        job_workers: jobs that run at once; their computations pass the gate like all others.
        job_queue_length: jobs that may wait.
        jobs_kept: ended jobs whose outcome is kept; their mask sets are kept with the sessions.
        max_event_streams: clients that may follow a job at once; each holds a thread of the server.
    """

    image_limits: ImageLimits = field(default_factory=ImageLimits)
    max_prompts: int = 256
    max_points: int = 1_000
    cache_bytes: int = 1 << 30
    session_ttl: float = 3_600.0
    concurrency: int = 1
    queue_length: int = 64
    queue_timeout: float = 60.0
    request_deadline: float = 120.0
    encode_batch: int = 0
    stuck_after: float = 600.0
    api_keys: tuple[str, ...] = ()
    rate_limit: str = ""
    redis_url: str | None = None
    redis_prefix: str = "sam:"
    jobs: Literal["auto", "process", "celery"] = "auto"
    cors_origins: tuple[str, ...] = ()
    metrics: Literal["key", "open", "off"] = "key"
    job_workers: int = 2
    job_queue_length: int = 16
    jobs_kept: int = 1_000
    max_event_streams: int = 8


@dataclass(frozen=True)
class Server:
    """What a request finds."""

    settings: WebSettings
    gate: InferenceGate
    slot: ModelSlot
    sessions: SessionStore
    jobs: JobQueue
    event_streams: threading.BoundedSemaphore
    metrics: Metrics
    keys: KeyRing
    rate_limits: RateLimits
    stopping: threading.Event

    def model(self) -> LoadedModel:
        """The loaded model, or a 503 problem."""
        try:
            return self.slot.get()
        except ModelNotReadyError as error:
            if error.failed:
                raise Problem(503, "model_failed", str(error)) from None
            raise busy("model_loading", f"{error}: try again in a moment", LOADING_RETRY_AFTER) from None

    def stop(self, patience: float = 0.0) -> None:
        """End the jobs with a reason that clients see; what else has begun is answered, and /ready says no.

        Args:
            patience: how long to wait for running jobs to notice, in seconds.
        """
        self.stopping.set()
        self.jobs.close(patience, stopping())


def stopping() -> Problem:
    """503: the server is being stopped."""
    return busy("server_stopping", "the server stops: send the request again in a moment", STOPPING_RETRY_AFTER)


def make_server(settings: WebSettings) -> Server:
    """Everything that requests share, with the model still to come."""
    metrics = Metrics()
    gate = InferenceGate(settings.concurrency, settings.queue_length, settings.queue_timeout, observer=metrics)
    slot = ModelSlot(gate, settings.encode_batch)
    sessions, jobs = _make_stores(settings, slot)
    metrics.watch(StateCollector(gate, slot, sessions, jobs))
    streams = threading.BoundedSemaphore(settings.max_event_streams)
    keys, rate_limits = KeyRing(settings.api_keys), RateLimits(settings.rate_limit, settings.redis_url)
    return Server(settings, gate, slot, sessions, jobs, streams, metrics, keys, rate_limits, threading.Event())


def _make_stores(settings: WebSettings, slot: ModelSlot) -> tuple[SessionStore, JobQueue]:
    """Sessions and jobs of this process alone, or those that it shares."""
    if settings.redis_url is not None:
        from sam_server.web.sharing import make_shared  # redis and Celery are loaded where they are used

        return make_shared(settings, slot)
    return SessionStore(settings.cache_bytes, settings.session_ttl), JobQueue(
        settings.job_workers, settings.job_queue_length, settings.jobs_kept, settings.session_ttl, (Problem,)
    )


def server() -> Server:
    """The state of the application that answers the current request."""
    state = current_app.extensions[EXTENSION]
    assert isinstance(state, Server)
    return state
