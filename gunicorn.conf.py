"""gunicorn: one process that holds the model once, and threads that share it."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from gunicorn_worker import LONGEST_REQUEST_LINE
from sam_config import ConfigError, load_config, usual_threads
from sam_server.logs import configuration

try:
    _config = load_config()
except ConfigError as error:
    sys.exit(str(error))

# OpenMP asks for it when a library is loaded, and would take a thread for every processor of the machine.
os.environ.setdefault("OMP_NUM_THREADS", str(_config.intra_op_threads or usual_threads()))

bind = f"[{_config.host}]:{_config.port}" if ":" in _config.host else f"{_config.host}:{_config.port}"
workers = 1
# gunicorn's "gthread", with bounds for clients that send slowly.
worker_class = "gunicorn_worker.PacedWorker"
limit_request_line = LONGEST_REQUEST_LINE
threads = _config.threads
# A model on CUDA does not survive the fork that follows a preload.
preload_app = False
# Seconds without a sign of life from the worker's main thread; requests run in the others and may take longer.
timeout = 120
# Seconds that running requests get to finish once the server is asked to stop; the jobs are ended at once.
graceful_timeout = _config.graceful_timeout
loglevel = _config.log_level
# gunicorn's own lines look like all others.
logconfig_dict = configuration(_config.log_level, _config.log_format)
# It would stand at one place for every server of the user.
control_socket_disable = True


def post_worker_init(worker: Any) -> None:
    """End the jobs when gunicorn asks the worker to stop: a request that waits for one would hold it up."""
    from sam_server.web.state import EXTENSION  # the master needs no Flask

    stop = worker.wsgi.extensions[EXTENSION].stop
    goes_on = worker.handle_exit

    def end_jobs() -> None:
        threading.Thread(target=stop, name="stop", daemon=True).start()

    def handle(number: int, frame: FrameType | None) -> None:
        # In the worker's loop, since a signal comes in the middle of anything, a lock held perhaps.
        worker.method_queue.defer(end_jobs)
        goes_on(number, frame)

    signal.signal(signal.SIGTERM, handle)
    signal.siginterrupt(signal.SIGTERM, False)
