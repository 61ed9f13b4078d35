"""An application with a small random model, a client of it, and the same over a real socket."""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from werkzeug.serving import make_server as make_wsgi_server

from pytorch_sam_wrapper import PyTorchSam
from sam_server.network.sam import Sam
from sam_server.network.variants import VARIANTS
from sam_server.web.application import make_app
from sam_server.web.model import BackendReport
from sam_server.web.state import Server, WebSettings, make_server
from tests.serving import serving

REPORT = BackendReport(
    requested_backend="auto",
    requested_model_type="vit_h",
    requested_gpu=True,
    performance_mode=False,
    onnx_available=True,
    pytorch_available=True,
    fallback_reason="no checkpoint of vit_h could be downloaded",
)


class CountingSam(PyTorchSam):
    """The real backend, which also counts the pictures that it encodes and the chunks of points that it decodes."""

    encoded = 0
    chunks = 0

    def encode(self, images):
        self.encoded += len(images)
        return super().encode(images)

    def decode_above(self, embedding, prompts, min_iou):
        self.chunks += 1
        return super().decode_above(embedding, prompts, min_iou)


@pytest.fixture(scope="session")
def backend() -> CountingSam:
    """A small SAM of the real classes with random weights."""
    torch.manual_seed(0)
    variant = replace(VARIANTS["tiny"], image_size=128)
    return CountingSam(Sam(variant), torch.device("cpu"), "fp32", model_files=("/somewhere/tiny.safetensors",))


@pytest.fixture(scope="module")
def lasting_state(backend) -> Iterator[Server]:
    """A server with the default settings for all tests of a file."""
    state = make_server(WebSettings())
    state.slot.fill(backend, REPORT)
    yield state
    state.jobs.close()


@pytest.fixture
def make_state(backend) -> Iterator[Callable[..., Server]]:
    """Makes the state of a server with the settings given."""
    made = []

    def make(**settings) -> Server:
        backend.encoded = 0
        state = make_server(WebSettings(**settings))
        made.append(state)
        state.slot.fill(backend, REPORT)
        backend.encoded = 0
        return state

    yield make
    for state in made:
        state.jobs.close()


@pytest.fixture
def state(make_state) -> Server:
    """A server with the default settings."""
    return make_state()


@pytest.fixture
def client(state):
    """A client without a socket."""
    return make_app(state).test_client()


@pytest.fixture
def serve() -> Iterator[Callable[[Server], str]]:
    """Serves a state on a free port and gives its address."""
    with ExitStack() as running:

        def start(state: Server) -> str:
            return running.enter_context(serving(make_wsgi_server("127.0.0.1", 0, make_app(state), threaded=True)))

        yield start


def write(pixels, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def to_file() -> Callable[..., bytes]:
    """Writes an array as a picture file."""
    return write


@pytest.fixture(scope="session")
def coins() -> bytes:
    """skimage's coins, 384 x 303, as PNG."""
    return write(data.coins())


@pytest.fixture(scope="session")
def cat() -> bytes:
    """skimage's cat, 451 x 300, as JPEG."""
    return write(data.chelsea(), "JPEG")
