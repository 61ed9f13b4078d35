"""The line to the workers: Celery on the same Redis. A message is the id of a job as JSON; all else is in Redis."""

import ssl
from collections.abc import Callable

from celery import Celery
from celery.exceptions import OperationalError

from sam_server.sessions.errors import StoreAwayError
from sam_server.sessions.redis_link import ANSWER_SECONDS, CONNECT_SECONDS

RUN_JOB = "sam.run_job"
QUEUE = "jobs"
# A message that no worker confirmed is given out again after so long, in seconds. Nothing depends on it: whoever gets
# a job that another works on leaves it alone, and a dead worker's jobs are sent again at once (jobs/job_store.py).
VISIBILITY_SECONDS = 60


def make_celery(url: str, prefix: str) -> Celery:
    """The Celery application, for workers and for those who send them jobs.

    Args:
        url: redis:// or rediss:// address.
        prefix: of every key.
    """
    app = Celery("sam", broker=url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue=QUEUE,
        task_publish_retry=False,
        # A message is confirmed when its job has ended, and no worker holds more than it works on.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        # Threads share one model; a forked process would need a copy, and CUDA does not survive a fork.
        worker_pool="threads",
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{prefix}celery:",
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            "socket_keepalive": True,
        },
    )
    if url.startswith("rediss:"):
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def make_sender(url: str, prefix: str) -> Callable[[str], None]:
    """What sends the id of a job to the workers; it raises StoreAwayError."""
    app = make_celery(url, prefix)

    def send(job_id: str) -> None:
        try:
            app.send_task(RUN_JOB, args=[job_id], retry=False, ignore_result=True)
        except (OperationalError, OSError) as error:
            raise StoreAwayError(type(error).__name__) from error

    return send
