"""Who may ask, how often, and for what: API keys, rate limits, and things that belong to the key that made them.

Without keys everybody is the same owner, and whoever knows an id may use it.
"""

from flask import Flask, g, request

from sam_server.jobs.queue import Job, UnknownJobError
from sam_server.sessions.errors import UnknownIdError
from sam_server.sessions.kept import HasBytes, Session
from sam_server.web.problems import Problem, retry_header
from sam_server.web.state import server

# Paths that a probe or a load balancer asks without a key; the page asks its user for one.
_OPEN_PATHS = frozenset({"/health", "/ready", "/"})
_OPEN_FOLDER = "/page/"
# Paths that are asked every few seconds and cost nothing: no limit counts them.
_UNCOUNTED_PATHS = frozenset({"/metrics"})
# The owner where no key is asked for.
EVERYBODY = ""


def register(app: Flask) -> None:
    """Check every request of the application before it does anything."""
    app.before_request(_check)


def _check() -> None:
    g.owner = EVERYBODY
    if request.method == "OPTIONS" or request.path in _OPEN_PATHS or request.path.startswith(_OPEN_FOLDER):
        return
    address = f"address {request.remote_addr}"
    is_open = request.path == "/metrics" and server().settings.metrics == "open"
    if server().keys and not is_open:
        owner = server().keys.owner_of(_given_key())
        if owner is None:
            _count(address)  # so that keys are not tried out without end
            detail = "send an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            raise Problem(401, "missing_or_wrong_key", detail, headers={"WWW-Authenticate": "Bearer"})
        g.owner = owner
    if request.path not in _UNCOUNTED_PATHS:
        _count(g.owner or address)


def _given_key() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "")


def _count(client: str) -> None:
    wait = server().rate_limits.take(client)
    if wait is not None:
        detail = f"more requests than SAM_RATE_LIMIT allows ({server().settings.rate_limit}): send fewer"
        raise Problem(429, "rate_limited", detail, headers=retry_header(wait))


def owner() -> str:
    """Who sends the current request: the same for all requests with one key."""
    name: str = g.owner
    return name


def own_session(session_id: str) -> Session:
    """A session of the one who asks.

    Raises:
        SessionError: there is none of this id, or it is another's, which looks the same.
    """
    session = server().sessions.get(session_id)
    if session.owner != owner():
        raise UnknownIdError("session", session_id)
    return session


def own_mask_set(set_id: str) -> tuple[Session, HasBytes]:
    """A mask set of the one who asks, and its session.

    Raises:
        SessionError: there is none of this id, or it is another's, which looks the same.
    """
    session, kept = server().sessions.mask_set(set_id)
    if session.owner != owner():
        raise UnknownIdError("mask_set", set_id)
    return session, kept


def own_job(job_id: str) -> Job:
    """A job of the one who asks.

    Raises:
        UnknownJobError: there is none of this id, or it is another's, which looks the same.
    """
    job = server().jobs.get(job_id)
    if job.owner != owner():
        raise UnknownJobError(job_id, forgotten=False)
    return job
