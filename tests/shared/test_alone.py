"""A server without a Redis: nothing of what the others need is loaded."""

import subprocess
import sys

import pytest

from sam_config import ConfigError, load_config
from tests.shared.nodes import ROOT

CODE = """
import sys
from app import web_settings
from sam_config import SamConfig
from sam_server.web.state import make_server

make_server(web_settings(SamConfig())).jobs.close()
print(sorted({"redis", "celery", "kombu", "torch"} & set(sys.modules)))
"""


def test_neither_redis_nor_celery_is_loaded():
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SAM_JOBS": "celery"}, "SAM_JOBS='celery' is not valid without SAM_REDIS_URL"),
        ({"SAM_REDIS_URL": "http://localhost"}, "SAM_REDIS_URL=.secret. is not valid"),
        ({"SAM_REDIS_URL": "redis://"}, "SAM_REDIS_URL=.secret. is not valid"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(settings, None)


def test_a_worker_without_redis_ends_with_one_line():
    done = subprocess.run(
        [sys.executable, "-c", "import worker; worker.app"],
        cwd=ROOT, check=False, capture_output=True, text=True, env={"PATH": ""},
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.strip() == "SAM_REDIS_URL='' is not valid for a worker; options: the URL that the servers have"
