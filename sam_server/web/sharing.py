"""Sessions and jobs that several servers share, put together for this one. Only who has a SAM_REDIS_URL imports it."""

import secrets
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sam_server.arrays import FloatArray
from sam_server.backend import ImageEmbedding, LoadsEmbeddings
from sam_server.images import ImageLimits
from sam_server.jobs.job_store import JobStore
from sam_server.jobs.shared import SharedJobs
from sam_server.sessions.kept import KeptImage
from sam_server.sessions.pictures import ImageCoder, model_identity
from sam_server.sessions.redis_link import RedisLink
from sam_server.sessions.redis_store import RedisStore
from sam_server.sessions.shared import SharedSessions
from sam_server.web.model import LOADING_RETRY_AFTER, LoadedModel, ModelNotReadyError, ModelSlot
from sam_server.web.pictures import encode_picture
from sam_server.web.problems import MISTAKE, Problem, busy, describe

if TYPE_CHECKING:
    from sam_server.web.state import WebSettings


class ModelCoder:
    """`ImageCoder` of a loaded model."""

    def __init__(self, model: LoadedModel, limits: ImageLimits) -> None:
        self._model = model
        self._limits = limits
        self._identity = model_identity(model.ungated)

    @property
    def identity(self) -> str:
        """See `ImageCoder`."""
        return self._identity

    def encode(self, source: bytes) -> KeptImage:
        """See `ImageCoder`."""
        return encode_picture(self._model, source, self._limits)

    def to_array(self, embedding: ImageEmbedding) -> FloatArray:
        """See `ImageCoder`."""
        return self._model.ungated.embedding_array(embedding)

    def from_array(
        self, array: FloatArray, original_size: tuple[int, int], input_size: tuple[int, int]
    ) -> ImageEmbedding:
        """See `ImageCoder`."""
        backend = self._model.ungated
        assert isinstance(backend, LoadsEmbeddings)
        return backend.load_embedding(array, original_size, input_size)


def make_shared(settings: "WebSettings", slot: ModelSlot) -> tuple[SharedSessions, SharedJobs]:
    """The sessions and the jobs on a line to Redis, which lives from now on.

    Args:
        settings: with a `redis_url`.
        slot: where the model will be.
    """
    assert settings.redis_url is not None
    url, prefix, ttl = settings.redis_url, settings.redis_prefix, settings.session_ttl
    link = RedisLink(url, prefix)

    @cache
    def coder_of(model: LoadedModel) -> ImageCoder:
        return ModelCoder(model, settings.image_limits)

    def coder() -> ImageCoder:
        try:
            return coder_of(slot.get())
        except ModelNotReadyError as error:
            raise busy("model_loading", f"{error}: try again in a moment", LOADING_RETRY_AFTER) from None

    sessions = SharedSessions(settings.cache_bytes, ttl, RedisStore(link, ttl), coder)

    @cache
    def sender() -> Any:
        from sam_server.jobs.celery_app import make_sender

        return make_sender(url, prefix)

    jobs = SharedJobs(
        settings.job_workers,
        settings.job_queue_length,
        settings.jobs_kept,
        ttl,
        (Problem,),
        store=JobStore(link, ttl, secrets.token_hex(8)),
        where=settings.jobs,
        send=lambda job_id: sender()(job_id),
        describe=_document,
        settle=sessions.catch_up,
    )
    link.on_beat(sessions.catch_up)
    link.on_beat(lambda _: jobs.look_after())
    link.start()
    return sessions, jobs


def _document(error: Exception) -> Mapping[str, Any]:
    """An error as JSON values, from which another server makes the same problem."""
    problem = describe(error) or MISTAKE
    return {
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "headers": problem.headers,
        "members": problem.members,
    }
