"""A worker for long jobs beside the servers: `celery -A worker worker`.

It has the settings of the servers, loads the model once, and takes jobs from their Redis.
"""

import logging
import logging.config
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutting_down

from app import EXIT_NO_MODEL, load_model, web_settings
from sam_config import ROOT, ConfigError, load_config
from sam_server.jobs.celery_app import RUN_JOB, make_celery
from sam_server.jobs.shared import SharedJobs
from sam_server.logs import configuration
from sam_server.web.state import Server, make_server
from sam_server.web.work import make_work

logger = logging.getLogger(__name__)

# The one of this process, once its model is loaded.
_servers: list[Server] = []


def make_app() -> Celery:
    """The Celery application of the environment; a bad setting ends the process with one line."""
    try:
        config = load_config()
        if config.redis_url is None:
            raise ConfigError("SAM_REDIS_URL='' is not valid for a worker; options: the URL that the servers have")
    except ConfigError as error:
        _end(error)
    # Celery looks here for this file alone, and the backend is imported later.
    sys.path.append(str(ROOT))
    application = make_celery(config.redis_url, config.redis_prefix)
    application.task(name=RUN_JOB)(run_job)
    setup_logging.connect(_set_up_logging)
    worker_init.connect(_load)
    worker_shutting_down.connect(_stop)
    return application


def run_job(job_id: str) -> None:
    """Work on one job."""
    server = _servers[0]

    def work_of(_: str, arguments: Mapping[str, Any]) -> Any:
        return make_work(server, arguments)

    _jobs(server).work_on(job_id, work_of)


def _set_up_logging(**_: Any) -> None:
    config = load_config()
    logging.config.dictConfig(configuration(config.log_level, config.log_format))


def _load(**_: Any) -> None:
    """Load the model before the first job is taken; a worker that will never have one ends with a clear line."""
    _set_up_logging()  # Celery asks for it later
    try:
        config = load_config()
        server = make_server(web_settings(config))
        _jobs(server).be_worker()
        server.slot.fill(*load_model(config))
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        _end(f"the model could not be loaded: {error}")
    _servers.append(server)


def _stop(**_: Any) -> None:
    """A job may take longer than anybody waits for a process to stop: another worker starts it anew."""
    for server in _servers:
        _jobs(server).hand_over()


def _jobs(server: Server) -> SharedJobs:
    assert isinstance(server.jobs, SharedJobs)
    return server.jobs


def _end(reason: object) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    raise SystemExit(EXIT_NO_MODEL)


def __getattr__(name: str) -> Any:
    """`celery -A worker` finds its application here; a plain import of this module makes none."""
    if name == "app":
        application = make_app()
        globals()["app"] = application
        return application
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
