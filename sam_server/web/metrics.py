"""What Prometheus reads at /metrics: counters of requests, and the state of the server at the moment it is asked.

Labels take few values: routes are templates such as /sessions/<session_id>, never a path that a client sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sam_server import __version__
from sam_server.backend import KnowsDeviceMemory
from sam_server.jobs.gate import InferenceGate
from sam_server.jobs.queue import JobQueue, State
from sam_server.sessions.store import SessionStore
from sam_server.web.model import ModelNotReadyError, ModelSlot

# From a click on a cached session on a GPU to a search of a large picture on a CPU, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Requests that no route takes, and methods that HTTP does not know: each is one value, however many a client makes up.
NO_ROUTE = "none"
OTHER_METHOD = "other"
STATES: tuple[State, ...] = get_args(State)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._requests = Counter(
            "sam_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._duration = Histogram(
            "sam_http_request_seconds",
            "Time from the head of a request to its answer.",
            ("method", "route"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "sam_phase_seconds",
            "Time of a request by phase, as in Server-Timing.",
            ("phase",),
            buckets=SECONDS,
            registry=self._registry,
        )

        self._waits = Histogram(
            "sam_queue_wait_seconds",
            "Time that a computation waited for its turn.",
            ("lane",),
            buckets=(0.0, *SECONDS),
            registry=self._registry,
        )
        self._refused = Counter(
            "sam_queue_refused",
            "Computations that left the queue without a turn.",
            ("reason",),
            registry=self._registry,
        )
        self._batches = Histogram(
            "sam_encode_batch_pictures",
            "Pictures that were encoded together, where SAM_ENCODE_BATCH allows it.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )

    def waited(self, background: bool, seconds: float) -> None:
        """See `gate.Observer`."""
        self._waits.labels("background" if background else "interactive").observe(seconds)

    def refused(self, reason: str) -> None:
        """See `gate.Observer`."""
        self._refused.labels(reason).inc()

    def encoded(self, pictures: int) -> None:
        """See `gate.Observer`."""
        self._batches.observe(pictures)

    def watch(self, collector: Collector) -> None:
        """Ask a collector too, every time that somebody reads."""
        self._registry.register(collector)

    def count_request(self, method: str, route: str | None, status: int, phases: Mapping[str, float]) -> None:
        """Count one answer.

        Args:
            method: of HTTP.
            route: template of the path, or None where there is none.
            status: of HTTP.
            phases: seconds by phase; `total` is the whole request.
        """
        labels = (method if method in METHODS else OTHER_METHOD, route or NO_ROUTE)
        self._requests.labels(*labels, str(status)).inc()
        self._duration.labels(*labels).observe(phases["total"])
        for phase, seconds in phases.items():
            if phase != "total":
                self._phases.labels(phase).observe(seconds)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Everything as text, and its content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class StateCollector(Collector):
    """Reads the state of the server when it is asked, so that no number is ever old."""

    def __init__(self, gate: InferenceGate, slot: ModelSlot, sessions: SessionStore, jobs: JobQueue) -> None:
        self._gate = gate
        self._slot = slot
        self._sessions = sessions
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        yield GaugeMetricFamily("sam_queue_waiting", "Computations that wait for the model.", self._gate.waiting)
        yield GaugeMetricFamily(
            "sam_queue_waiting_background", "Those of them that belong to jobs.", self._gate.waiting_in(background=True)
        )
        yield GaugeMetricFamily("sam_queue_running", "Computations that run.", self._gate.running)
        yield GaugeMetricFamily(
            "sam_queue_longest_seconds", "How long the oldest of them runs by now.", self._gate.longest
        )
        yield from self._cache()
        yield from self._shared()
        yield from self._model()
        counts = self._jobs.counts()
        jobs = GaugeMetricFamily("sam_jobs", "Jobs that are known, by state.", labels=("state",))
        for state in STATES:
            jobs.add_metric((state,), counts.get(state, 0))
        yield jobs

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that the server is not asked before it runs."""
        return ()

    def _cache(self) -> Iterable[Metric]:
        stats = self._sessions.stats()
        for name, text, now in (
            ("sam_cache_bytes", "Memory that sessions hold.", stats.bytes),
            ("sam_cache_budget_bytes", "Memory that sessions may hold (SAM_CACHE_BYTES).", stats.budget_bytes),
            ("sam_sessions", "Sessions that are kept.", stats.sessions),
            ("sam_pictures", "Different pictures that are kept.", stats.images),
            ("sam_mask_sets", "Mask sets that are kept.", stats.mask_sets),
        ):
            yield GaugeMetricFamily(name, text, now)
        for name, text, count in (
            ("sam_cache_hits", "Requests that found their embedding.", stats.hits),
            ("sam_cache_misses", "Pictures that had to be encoded.", stats.misses),
            ("sam_cache_evictions", "Sessions forgotten for want of memory.", stats.evictions),
            ("sam_cache_expirations", "Sessions forgotten after their time to live.", stats.expirations),
        ):
            yield CounterMetricFamily(name, text, count)

    def _shared(self) -> Iterable[Metric]:
        stats = self._sessions.shared_stats()
        if stats is None:
            return
        for name, text, now in (
            ("sam_shared_store_away", "1 where the store that servers share does not answer.", stats.away),
            ("sam_shared_store_behind", "1 where it has not got everything that this server holds.", stats.behind),
        ):
            yield GaugeMetricFamily(name, text, now)
        for name, text, count in (
            ("sam_shared_store_failures", "Questions that the shared store did not answer.", stats.failures),
            ("sam_shared_store_loads", "Pictures whose embedding another server made.", stats.loads),
            ("sam_shared_store_refused", "Values of it that were damaged or of another model.", stats.refused),
        ):
            yield CounterMetricFamily(name, text, count)

    def _model(self) -> Iterable[Metric]:
        try:
            model = self._slot.get()
        except ModelNotReadyError:
            yield GaugeMetricFamily("sam_model_loaded", "1 once the model is loaded.", 0)
            return
        yield GaugeMetricFamily("sam_model_loaded", "1 once the model is loaded.", 1)
        info = model.backend.info
        labels = {
            "version": __version__,
            "backend": info.backend,
            "model_type": model.backend.spec.model_type,
            "requested_model_type": model.report.requested_model_type,
            "device": info.device,
            "precision": info.precision,
            "engine": info.engine,
        }
        described = GaugeMetricFamily("sam_model_info", "What runs, as labels.", labels=tuple(labels))
        described.add_metric(tuple(labels.values()), 1)
        yield described
        yield GaugeMetricFamily(
            "sam_model_fallback", "1 where something else runs than was asked for.", bool(model.report.fallback_reason)
        )
        backend = model.ungated
        memory = backend.device_memory() if isinstance(backend, KnowsDeviceMemory) else None
        if memory is not None:
            gauge = GaugeMetricFamily("sam_gpu_memory_bytes", "Memory of the GPU.", labels=("kind",))
            for kind, count in asdict(memory).items():
                gauge.add_metric((kind,), count)
            yield gauge
