"""The loaded model, or the reason why there is none yet."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sam_server.backend import SamBackend
from sam_server.jobs.gate import GatedBackend, InferenceGate
from sam_server.predictor import Predictor
from sam_server.prompts import make_prompt

log = logging.getLogger(__name__)

# Seconds after which a client that came too early may try again.
LOADING_RETRY_AFTER = 2.0
# Pictures that PyTorch encodes together on CUDA.
CUDA_ENCODE_BATCH = 4


@dataclass(frozen=True)
class BackendReport:
    """What was asked for, what could have run, and why another thing runs: the wish beside `BackendInfo`.

    Attributes:
        requested_backend: "pytorch", "onnx" or "auto".
        requested_model_type: such as "vit_h".
        requested_gpu: whether a GPU was asked for.
        performance_mode: whether speed goes before quality.
        onnx_available: whether an ONNX engine is installed.
        pytorch_available: whether torch is installed.
        fallback_reason: why something else runs than was asked for, or None.
    """

    requested_backend: str
    requested_model_type: str
    requested_gpu: bool
    performance_mode: bool
    onnx_available: bool
    pytorch_available: bool
    fallback_reason: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers.

    Attributes:
        backend: waits for its turn at the gate.
        background_backend: the same for long work, which is never refused its turn.
        ungated: the backend itself, for questions that compute nothing.
        predictor: on `backend`.
        report: what was asked for.
        warm_up_ms: time of the first picture and click, in milliseconds.
    """

    backend: SamBackend
    background_backend: SamBackend
    ungated: SamBackend
    predictor: Predictor
    report: BackendReport
    warm_up_ms: float


class ModelNotReadyError(Exception):
    """The model is not loaded: still loading, or it never will be (`failed`)."""

    def __init__(self, message: str, failed: bool) -> None:
        super().__init__(message)
        self.failed = failed


class ModelSlot:
    """Where the model will be: empty at first, filled once."""

    def __init__(self, gate: InferenceGate, encode_batch: int = 0) -> None:
        """Make an empty slot.

        Args:
            gate: of the model's device.
            encode_batch: pictures that are encoded together where they wait at the same time; 0 for what the device
                likes.
        """
        self._gate = gate
        self._encode_batch = encode_batch
        self._model: LoadedModel | None = None
        self._failure: str | None = None
        self._loader: threading.Thread | None = None

    @property
    def is_loading(self) -> bool:
        """Whether a thread is about to fill the slot."""
        return self._loader is not None and self._loader.is_alive()

    def get(self) -> LoadedModel:
        """The loaded model.

        Raises:
            ModelNotReadyError: it is still loading, or could not be loaded.
        """
        if self._model is not None:
            return self._model
        if self._failure is not None:
            raise ModelNotReadyError(f"the model could not be loaded: {self._failure}", failed=True)
        raise ModelNotReadyError("the model is being loaded", failed=False)

    def fill(self, backend: SamBackend, report: BackendReport) -> None:
        """Warm the backend up and let requests reach it."""
        warm_up_ms = _warm_up(backend)
        likes_batches = backend.info.backend == "pytorch" and backend.info.device.startswith("cuda")
        batch = self._encode_batch or (CUDA_ENCODE_BATCH if likes_batches else 1)
        gated = GatedBackend(backend, self._gate, encode_batch=batch)
        patient = GatedBackend(backend, self._gate, patient=True, encode_batch=batch)
        self._model = LoadedModel(gated, patient, backend, Predictor(gated), report, warm_up_ms)
        log.info("%s", banner(self._model))

    def fail(self, reason: str) -> None:
        """Say why there will be no model."""
        self._failure = reason

    def load_in_background(
        self, load: Callable[[], tuple[SamBackend, BackendReport]], on_failure: Callable[[str], None]
    ) -> threading.Thread:
        """Load in a thread of its own, so that /health answers meanwhile.

        Args:
            load: gives the backend and the report on it.
            on_failure: called with one sentence if that fails.
        """

        def run() -> None:
            try:
                self.fill(*load())
            except Exception as error:
                log.debug("loading failed", exc_info=error)
                self.fail(str(error))
                on_failure(f"the model could not be loaded: {error}")

        self._loader = threading.Thread(target=run, name="load-model", daemon=True)
        self._loader.start()
        return self._loader


def banner(model: LoadedModel) -> str:
    """One line that says what runs, for the log."""
    info, report = model.backend.info, model.report
    parts = [f"serving {model.backend.spec.model_type} with {info.engine} on {info.device} in {info.precision}"]
    if info.onnx_providers:
        parts.append(f"providers {', '.join(info.onnx_providers)}")
    parts.append(f"warm-up {model.warm_up_ms:.0f} ms")
    wished = f"asked for {report.requested_backend}/{report.requested_model_type}"
    reasons = [reason for reason in (report.fallback_reason, *info.notes) if reason]
    if reasons:
        parts.append(f"{wished}, but {'; '.join(reasons)}")
    return "; ".join(parts)


def _warm_up(backend: SamBackend) -> float:
    """Milliseconds that a grey picture and one click take the first time."""
    started = time.perf_counter()
    side = backend.spec.image_size
    predictor = Predictor(backend)
    embedding = predictor.encode(np.full((side, side, 3), 128, np.uint8))
    predictor.predict(embedding, [make_prompt([[side / 2, side / 2]], [1])])[0].mask(0)
    return (time.perf_counter() - started) * 1000
