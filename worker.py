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

# Celery looks here for this file alone, and the backend is imported later.
sys.path.append(str(ROOT))


def _end(reason: object) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    raise SystemExit(EXIT_NO_MODEL)


def _make_app() -> Celery:
    try:
        config = load_config()
        if config.redis_url is None:
            raise ConfigError("SAM_REDIS_URL='' is not valid for a worker; options: the URL that the servers have")
    except ConfigError as error:
        _end(error)
    return make_celery(config.redis_url, config.redis_prefix)


app = _make_app()
_servers: list[Server] = []


@setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up_logging(**_: Any) -> None:
    config = load_config()
    logging.config.dictConfig(configuration(config.log_level, config.log_format))


@worker_init.connect  # type: ignore[untyped-decorator]
def _load(**_: Any) -> None:
    """Load the model before the first job is taken; a worker that will never have one ends with a clear line."""
    _set_up_logging()  # Celery asks for it later
    try:
        config = load_config()
        server = make_server(web_settings(config))
        assert isinstance(server.jobs, SharedJobs)
        server.jobs.be_worker()
        server.slot.fill(*load_model(config))
    except Exception as error:
        logger.debug("loading failed", exc_info=error)
        _end(f"the model could not be loaded: {error}")
    _servers.append(server)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: Any) -> None:
    """A job may take longer than anybody waits for a process to stop: another worker starts it anew."""
    for server in _servers:
        assert isinstance(server.jobs, SharedJobs)
        server.jobs.hand_over()


@app.task(name=RUN_JOB)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Work on one job."""
    server = _servers[0]
    jobs = server.jobs
    assert isinstance(jobs, SharedJobs)

    def work_of(_: str, arguments: Mapping[str, Any]) -> Any:
        return make_work(server, arguments)

    jobs.work_on(job_id, work_of)
