"""The server: `python app.py`, or `gunicorn app:app`."""

import atexit
import logging
import logging.config
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Literal, cast

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from backend_loader import installed_backends, load_backend
from sam_config import ConfigError, SamConfig, load_config, usual_threads
from sam_server.allocator import keep_freed_memory
from sam_server.backend import SamBackend
from sam_server.images import ImageLimits
from sam_server.logs import configuration
from sam_server.threads import limit_threads
from sam_server.web.application import make_app
from sam_server.web.model import BackendReport
from sam_server.web.state import EXTENSION, Server, WebSettings, make_server

logger = logging.getLogger(__name__)

# gunicorn gives up, rather than start the worker again, when a worker ends with this status
# (gunicorn/arbiter.py, WORKER_BOOT_ERROR).
EXIT_NO_MODEL = 3
# How long a process that ends waits for its jobs to notice, in seconds.
EXIT_PATIENCE = 10.0


def create_app(
    config: SamConfig | None = None,
    backend: SamBackend | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> Flask:
    """Make the WSGI application.

    The model is loaded in the background: /health answers at once, /ready when the model is there.

    Args:
        config: the settings; those of the environment if None.
        backend: a loaded backend, used in place of what the settings ask for.
        on_failure: told in one sentence that no model could be loaded; ends the process if None.

    Raises:
        ConfigError: a setting is not valid.
    """
    config = load_config() if config is None else config
    server = make_server(web_settings(config))
    if backend is None:
        server.slot.load_in_background(lambda: load_model(config), on_failure or _exit)
    else:
        server.slot.fill(backend, _report(config, None))
    application = make_app(server)
    if config.trusted_proxies:
        proxies = config.trusted_proxies
        application.wsgi_app = ProxyFix(application.wsgi_app, x_for=proxies, x_proto=0)  # type: ignore[method-assign]
    return application


def load_model(config: SamConfig) -> tuple[SamBackend, BackendReport]:
    """Load what the settings ask for, and say what that is.

    Raises:
        ConfigError: nothing can run.
    """
    keep_freed_memory()
    backend, choice = load_backend(config)
    limit_threads(config.intra_op_threads or usual_threads())
    return backend, _report(config, choice.fallback_reason)


def _report(config: SamConfig, fallback_reason: str | None) -> BackendReport:
    installed = installed_backends()
    return BackendReport(
        requested_backend=config.backend,
        requested_model_type=config.model_type,
        requested_gpu=config.use_gpu,
        performance_mode=config.performance_mode,
        onnx_available="onnx" in installed,
        pytorch_available="pytorch" in installed,
        fallback_reason=fallback_reason,
    )


def web_settings(config: SamConfig) -> WebSettings:
    """The settings that the server's own rooms take."""
    return WebSettings(
        image_limits=ImageLimits(config.max_upload_bytes, config.max_pixels),
        max_prompts=config.max_prompts,
        max_points=config.max_points,
        cache_bytes=config.cache_bytes,
        session_ttl=config.session_ttl,
        concurrency=config.concurrency,
        queue_length=config.queue_length,
        queue_timeout=config.queue_timeout,
        request_deadline=config.request_deadline,
        encode_batch=config.encode_batch,
        stuck_after=config.stuck_after,
        api_keys=config.api_keys,
        rate_limit=config.rate_limit,
        redis_url=config.redis_url,
        redis_prefix=config.redis_prefix,
        jobs=cast(Literal["auto", "process", "celery"], config.jobs),
        cors_origins=config.cors_origins,
        metrics=cast(Literal["key", "open", "off"], config.metrics),
        job_workers=config.job_workers,
        job_queue_length=config.job_queue_length,
        jobs_kept=config.jobs_kept,
        max_event_streams=config.event_streams,
    )


def _exit(reason: str) -> None:
    """End the process with one clear line: a server that will never have a model helps nobody."""
    logger.critical("%s", reason)
    logging.shutdown()
    # From a thread, sys.exit would end that thread alone.
    os._exit(EXIT_NO_MODEL)


def _application() -> Flask:
    """The application of the environment, as a server process wants it: a bad setting ends it with one line."""
    try:
        config = load_config()
        logging.config.dictConfig(configuration(config.log_level, config.log_format))
        application = create_app(config)
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(EXIT_NO_MODEL) from None
    atexit.register(_end, application.extensions[EXTENSION])
    return application


def _end(server: Server) -> None:
    """Leave no native code that computes while the interpreter is taken down: it may crash the process."""
    server.stop(EXIT_PATIENCE)
    if server.slot.is_loading:  # nothing can stop it, and nobody waits for the model any more
        logging.shutdown()
        os._exit(0)


def __getattr__(name: str) -> Any:
    """`gunicorn app:app` finds its application here; a plain import of this module makes none."""
    if name == "app":
        application = _application()
        globals()["app"] = application
        return application
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Handler(WSGIRequestHandler):
    """Keeps connections open between requests, as gunicorn does."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: the application logs its requests itself."""


class _Server(ThreadedWSGIServer):
    """A thread a request; none of them keeps the process from ending."""

    daemon_threads = True
    stop_asked = False

    def ask_to_stop(self, *_: Any) -> None:
        """Handles signals. An exception would be lost where it came in the middle of a destructor, say."""
        self.stop_asked = True

    def service_actions(self) -> None:
        """Called by `serve_forever` between requests, twice a second at least."""
        super().service_actions()
        if self.stop_asked:
            raise KeyboardInterrupt


def main() -> None:
    """Serve with the settings of the environment, without gunicorn: for one user, and for Windows."""
    application = _application()
    config = load_config()
    server = _Server(config.host, config.port, application, _Handler)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.ask_to_stop)
    logger.info("listening on http://%s:%d", config.host, server.port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
