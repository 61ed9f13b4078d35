"""GET and DELETE /jobs/ID, GET /jobs/ID/events; and how a request starts a job and waits for it."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Response, request, url_for
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from sam_server.jobs.queue import FINAL, Job, JobContext
from sam_server.web.access import own_job, owner
from sam_server.web.answers import json_answer
from sam_server.web.clients import Caller
from sam_server.web.openapi import responses
from sam_server.web.problems import MISTAKE, Problem, busy, client_left, describe
from sam_server.web.schemas import JobOut, JobPath
from sam_server.web.state import Server, server

blueprint = APIBlueprint("jobs", __name__, abp_tags=[Tag(name="jobs", description="long work")])

# Seconds between two looks whether the client of a synchronous call is still there.
LOOK_EVERY = 0.25
# Seconds of silence after which an event stream says that it lives; proxies cut idle connections after 60 or so.
HEARTBEAT = 15.0
# How long a request to cancel waits for the work to stop, so that its answer is the end of it, in seconds.
CANCEL_WAIT = 1.0


@blueprint.get("/jobs/<job_id>", summary="How far a job is", responses=responses({200: JobOut}, 404, 410, 503))
def look_at_job(path: JobPath) -> Response:
    """A job is kept for as long as an unused session after its end."""
    return json_answer(job_fields(own_job(path.job_id)))


@blueprint.delete("/jobs/<job_id>", summary="Stop a job", responses=responses({200: JobOut}, 404, 410, 503))
def cancel_job(path: JobPath) -> Response:
    """A waiting job ends at once, a running one at its next chunk; an ended one stays as it is."""
    jobs = server().jobs
    job = jobs.cancel(own_job(path.job_id).id)
    while job.state not in FINAL:
        before = job.version
        job = jobs.wait(path.job_id, before, CANCEL_WAIT)
        if job.version == before:
            break
    return json_answer(job_fields(job))


@blueprint.get(
    "/jobs/<job_id>/events",
    summary="Follow a job",
    responses={
        200: {
            "description": "server-sent events named after the state, each a job",
            "content": {"text/event-stream": {}},
        },
        **responses({}, 404, 410, 503),
    },
)
def follow_job(path: JobPath) -> Response:
    """An event for every step, the last one when the job has ended."""
    state = server()
    own_job(path.job_id)
    if not state.event_streams.acquire(blocking=False):
        raise busy("too_many_streams", "too many clients follow jobs: look at the job now and then", HEARTBEAT)
    answer = Response(_events(state, path.job_id), mimetype="text/event-stream")
    answer.call_on_close(state.event_streams.release)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would hold the events back
    return answer


def _events(state: Server, job_id: str) -> Iterator[bytes]:
    version = -1
    for job in state.jobs.follow(job_id, HEARTBEAT):
        if job.version == version:
            yield b": still there\n\n"
            continue
        version = job.version
        yield b"event: %s\nid: %d\ndata: %s\n\n" % (job.state.encode(), version, orjson.dumps(job_fields(job)))


def job_fields(job: Job) -> dict[str, Any]:
    """The fields of `JobOut`."""
    problem = None if job.error is None else describe(job.error) or MISTAKE
    error = None if problem is None else {"code": problem.code, "detail": problem.detail}
    return {
        "job_id": job.id,
        "kind": job.kind,
        "state": job.state,
        "progress": job.progress,
        "result": job.result,
        "error": error,
    }


@dataclass(frozen=True)
class Preference:
    """What the Prefer header of RFC 7240 asks for.

    Attributes:
        respond_async: whether a job is wanted in place of the result.
        wait: seconds that the client would wait for the result before it takes the job.
    """

    respond_async: bool
    wait: float

    @classmethod
    def of_request(cls) -> "Preference":
        """The preference of the current request; what cannot be read is no preference."""
        values = {}
        for part in ",".join(request.headers.getlist("Prefer")).split(","):
            name, _, value = part.strip().partition("=")
            values[name.strip().lower()] = value.strip()
        wait = values.get("wait", "")
        return cls("respond-async" in values, float(wait) if wait.isascii() and wait.isdigit() else 0.0)


def run_job(kind: str, work: Callable[[JobContext], Any], arguments: Mapping[str, Any]) -> Job | Response:
    """Run long work for the current request.

    Args:
        kind: what it does.
        work: gives the result.
        arguments: from which another process can make the same work (work.py).

    Returns:
        The ended job, or with `Prefer: respond-async` the answer 202 that says where the job is.

    Raises:
        QueueFullError: so many jobs wait already.
        Problem: the job failed or was cancelled, or the client left, which cancels it.
    """

    jobs, caller, preference = server().jobs, Caller(), Preference.of_request()
    job = jobs.submit(kind, work, owner(), arguments)
    looks = math.inf if not preference.respond_async else preference.wait / LOOK_EVERY
    while job.state not in FINAL and looks > 0:
        seen = jobs.wait(job.id, job.version, LOOK_EVERY)
        looks -= seen.version == job.version
        job = seen
        if not preference.respond_async and caller.is_gone():
            jobs.cancel(job.id)
            raise client_left()
    if job.state not in FINAL:
        headers = {"Location": url_for("jobs.look_at_job", job_id=job.id), "Preference-Applied": "respond-async"}
        return json_answer(job_fields(job), 202, headers)
    if job.error is not None:
        raise job.error
    if job.state == "cancelled":
        raise Problem(409, "job_cancelled", "the job was cancelled")
    return job
