"""A picture that came with a request, made into a session."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

from sam_server import images
from sam_server.images import ImageLimits
from sam_server.jobs.asking import asker
from sam_server.jobs.gate import ClientGoneError, GateBusyError
from sam_server.sessions.kept import KeptImage, Session
from sam_server.web.access import own_session, owner
from sam_server.web.hooks import add_time, note_session, spent, timed
from sam_server.web.model import LoadedModel
from sam_server.web.problems import Problem
from sam_server.web.state import server


def open_session(source: bytes) -> tuple[Session, bool]:
    """Open a session on an uploaded picture.

    Args:
        source: the picture's file.

    Returns:
        The session, and whether the picture had been encoded before.

    Raises:
        ImageError: the bytes are no picture, or too large a one.
        GateBusyError: the model has no time.
        OverBudgetError: the cache cannot hold it.
    """
    state = server()
    model = state.model()

    started = time.perf_counter()
    try:
        while True:
            try:
                return state.sessions.open(
                    source, lambda: encode_picture(model, source, state.settings.image_limits, timed), owner()
                )
            except (ClientGoneError, GateBusyError) as error:
                # Another request was encoding the same picture for both and gave up; this one has to do it itself.
                if error.who is None or error.who is asker.get():
                    raise
    finally:
        add_time("cache", time.perf_counter() - started - spent("decode", "encode"))


def encode_picture(
    model: LoadedModel,
    source: bytes,
    limits: ImageLimits,
    timed: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> KeptImage:
    """Read and encode a picture's file.

    Args:
        model: encodes it.
        source: the file.
        limits: of its size.
        timed: measures the phases "decode" and "encode".

    Raises:
        ImageError: the bytes are no picture, or too large a one.
        GateBusyError: the model has no time.
    """
    with timed("decode"):
        picture = images.read(source, limits)
    with timed("encode"):
        embedding = model.predictor.encode(picture.pixels)
    scaling = None if picture.scaling is None else asdict(picture.scaling)
    return KeptImage(source, embedding, {"scaling": scaling})


def session_of(session_id: str | None, source: bytes | None) -> Session:
    """The session that a request names, or a new one on the picture that came with it.

    Args:
        session_id: the request's field.
        source: the picture's file, or None.

    Raises:
        Problem: neither was given, or both.
        SessionError: there is no such session.
    """
    if source is not None:
        if session_id is not None:
            raise Problem(422, "ambiguous_picture", "give either session_id or a picture, not both", field="session_id")
        return open_session(source)[0]
    if session_id is None:
        raise Problem(400, "missing_picture", "give a session_id or a picture in the field 'image'", field="session_id")
    with timed("cache"):
        session = own_session(session_id)
    note_session(session.id)
    return session
