"""GET /health, /ready, /backend_info, /metrics: is it alive, may it be asked, what runs, and how it fares."""

from dataclasses import asdict
from pathlib import PurePath

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server import __version__
from sam_server.web.answers import json_answer
from sam_server.web.openapi import responses
from sam_server.web.problems import Problem
from sam_server.web.schemas import BackendInfoOut, HealthOut, ReadyOut
from sam_server.web.state import server, stopping

blueprint = APIBlueprint("info", __name__, abp_tags=[Tag(name="server", description="what runs")])


@blueprint.get("/health", summary="Is the process alive?", responses=responses({200: HealthOut}, 503))
def health() -> Response:
    """Answers from the start, while the model is still being loaded. 503 means that only a new start helps."""
    state = server()
    seconds = state.gate.longest
    if seconds > state.settings.stuck_after:
        detail = f"a computation runs for {seconds:.0f} seconds: the server should be started again"
        raise Problem(503, "model_stuck", detail)
    return json_answer({"status": "ok", "version": __version__})


@blueprint.get("/ready", summary="May it be asked for masks?", responses=responses({200: ReadyOut}, 503))
def ready() -> Response:
    """Ready means that the model is loaded; with SAM_STRICT it is then the one, and where, that was asked for."""
    state = server()
    if state.stopping.is_set():
        raise stopping()
    model = state.model()
    return json_answer(
        {"status": "ready", "model_type": model.backend.spec.model_type, "device": model.backend.info.device}
    )


@blueprint.get(
    "/backend_info", summary="What runs, and what was asked for", responses=responses({200: BackendInfoOut}, 503)
)
def backend_info() -> Response:
    """The truth beside the wish: the providers are those that the loaded session bound, not those compiled in."""
    state = server()
    model = state.model()
    info, report, spec = model.backend.info, model.report, model.backend.spec
    return json_answer(
        {
            "backend": info.backend,
            "model_type": spec.model_type,
            "use_gpu": info.device != "cpu",
            "performance_mode": report.performance_mode,
            "device": info.device,
            "onnx_available": report.onnx_available,
            "pytorch_available": report.pytorch_available,
            "onnx_providers": info.onnx_providers,
            "requested_backend": report.requested_backend,
            "requested_model_type": report.requested_model_type,
            "requested_gpu": report.requested_gpu,
            "fallback_reason": report.fallback_reason,
            "precision": info.precision,
            "engine": info.engine,
            # Names only: where they lie is nobody's business.
            "model_files": [PurePath(path).name for path in info.model_files],
            "sha256": info.sha256,
            "notes": info.notes,
            "image_size": spec.image_size,
            "warm_up_ms": round(model.warm_up_ms, 1),
            "queue_waiting": state.gate.waiting,
            "jobs": state.jobs.counts(),
            "cache": asdict(state.sessions.stats()),
            "shared": None if (shared := state.sessions.shared_stats()) is None else asdict(shared),
            "version": __version__,
        }
    )


@blueprint.get(
    "/metrics",
    summary="Numbers for Prometheus",
    responses={
        200: {"description": "the text format of Prometheus, or of OpenMetrics", "content": {"text/plain": {}}},
        **responses({}, 404),
    },
)
def metrics() -> Response:
    """SAM_METRICS tells who may read them."""
    state = server()
    if state.settings.metrics == "off":
        raise Problem(404, "unknown_path", "this server gives no metrics: see SAM_METRICS")
    data, content_type = state.metrics.write(request.headers.get("Accept", ""))
    return Response(data, content_type=content_type)
