"""Jobs in Redis: what every process may know of one, who works on it, and whether that one is still alive.

Keys, behind the prefix of the installation and the version of this layout:

    job:ID      hash: kind, state, version, progress, result, error, owner, arguments, where ("process" or "worker"),
                runner, attempts, cancel, created, sent
    lease:ID    the runner, for as long as it shows that it lives
    jobs        set of the ids that have not ended; waiting and working: those of them that are the workers'
    runners     there while a worker lives
    seen:ID     an id that was given, kept for a while after its job is gone
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sam_server.jobs.queue import FINAL, FailedElsewhereError, Job, State
from sam_server.sessions.redis_link import BEAT_SECONDS, RedisLink

LAYOUT = "1"
REMEMBERED_SECONDS = 86_400
# A runner that was silent for so long is taken for dead.
LEASE_SECONDS = 5 * BEAT_SECONDS
# A job that lost its worker so often is given up: it may be what kills them.
MAX_ATTEMPTS = 3
# A waiting job is sent to the workers again after so long, for the message may have been lost; twice does no harm.
RESEND_SECONDS = 60
# How long a job waits for workers to come back, and how fresh a worker's sign must be to send it new ones, in seconds.
NO_WORKER_SECONDS = 120
FRESH_SECONDS = 5 * BEAT_SECONDS

LOST = {
    "status": 500,
    "code": "worker_lost",
    "detail": "the process that worked on the job died: start the job again",
}
NO_WORKER = {
    "status": 503,
    "code": "no_worker",
    "detail": "no worker took the job: the operator must start one (docs/shared-sessions.md)",
}

_HEAD = """
local p, id = KEYS[1], ARGV[1]
local job = p .. 'job:' .. id
local final = {done = true, failed = true, cancelled = true}
local function finish(keep, remember)
    redis.call('SREM', p .. 'jobs', id)
    redis.call('SREM', p .. 'waiting', id)
    redis.call('SREM', p .. 'working', id)
    redis.call('DEL', p .. 'lease:' .. id)
    redis.call('PEXPIRE', job, keep)
    redis.call('SET', p .. 'seen:' .. id, 'job', 'PX', keep + remember)
end
local function change(state, ...)
    redis.call('HINCRBY', job, 'version', 1)
    redis.call('HSET', job, 'state', state, ...)
end
"""
# ARGV: id, most that may wait (-1 for any), lease, then fields and values.
# A job of this process may have begun, and been told of by `push`, already: then it gets what only this knows.
_CREATE = (
    _HEAD
    + """
if redis.call('EXISTS', job) == 1 then
    for field = 4, #ARGV, 2 do redis.call('HSETNX', job, ARGV[field], ARGV[field + 1]) end
    return 1
end
if tonumber(ARGV[2]) >= 0 and redis.call('SCARD', p .. 'waiting') >= tonumber(ARGV[2]) then return 0 end
local now = redis.call('TIME')[1]
redis.call('HSET', job, 'created', now, 'sent', now, unpack(ARGV, 4))
redis.call('SADD', p .. 'jobs', id)
local runner = redis.call('HGET', job, 'runner')
if runner then redis.call('SET', p .. 'lease:' .. id, runner, 'PX', ARGV[3])
else redis.call('SADD', p .. 'waiting', id) end
return 1
"""
)
# ARGV: id, runner, lease, 1 if it ended, keep, remember, then fields and values.
_PUSH = (
    _HEAD
    + """
local runner = redis.call('HGET', job, 'runner')
if runner and runner ~= ARGV[2] then return -1 end
redis.call('HSET', job, 'runner', ARGV[2], unpack(ARGV, 7))
if ARGV[4] == '1' then finish(ARGV[5], ARGV[6]) else
    redis.call('SADD', p .. 'jobs', id)
    redis.call('SET', p .. 'lease:' .. id, ARGV[2], 'PX', ARGV[3])
end
return redis.call('HGET', job, 'cancel') == '1' and 1 or 0
"""
)
# ARGV: id, runner, lease.
_CLAIM = (
    _HEAD
    + """
local state = redis.call('HGET', job, 'state')
if not state or final[state] or redis.call('EXISTS', p .. 'lease:' .. id) == 1 then return false end
change('running', 'runner', ARGV[2])
redis.call('HINCRBY', job, 'attempts', 1)
redis.call('SET', p .. 'lease:' .. id, ARGV[2], 'PX', ARGV[3])
redis.call('SREM', p .. 'waiting', id)
redis.call('SADD', p .. 'working', id)
return redis.call('HGETALL', job)
"""
)
# ARGV: id, runner.
_HAND_OVER = (
    _HEAD
    + """
if redis.call('HGET', job, 'runner') ~= ARGV[2] then return end
change('queued', 'sent', 0)
redis.call('HINCRBY', job, 'attempts', -1)
redis.call('HDEL', job, 'runner')
redis.call('DEL', p .. 'lease:' .. id)
redis.call('SREM', p .. 'working', id)
redis.call('SADD', p .. 'waiting', id)
"""
)
# ARGV: id, keep, remember.
_CANCEL = (
    _HEAD
    + """
local state = redis.call('HGET', job, 'state')
if not state or final[state] then return end
redis.call('HSET', job, 'cancel', '1')
if redis.call('EXISTS', p .. 'lease:' .. id) == 0 then
    change('cancelled')
    finish(ARGV[2], ARGV[3])
end
"""
)
# ARGV: id, keep, remember, most attempts, seconds until sent again, seconds without a worker, the two errors.
# Gives 1 where the job shall be sent to the workers.
_LOOK_AFTER = (
    _HEAD
    + """
local state = redis.call('HGET', job, 'state')
if not state or final[state] then
    for _, set in ipairs({'jobs', 'waiting', 'working'}) do redis.call('SREM', p .. set, id) end
    return 0
end
if redis.call('EXISTS', p .. 'lease:' .. id) == 1 then return 0 end
local now = tonumber(redis.call('TIME')[1])
local function fail(error)
    change('failed', 'error', error)
    finish(ARGV[2], ARGV[3])
    return 0
end
if redis.call('HGET', job, 'where') ~= 'worker' then return fail(ARGV[7]) end
if state == 'running' then
    if tonumber(redis.call('HGET', job, 'attempts')) >= tonumber(ARGV[4]) then return fail(ARGV[7]) end
    change('queued', 'sent', now)
    redis.call('HDEL', job, 'runner')
    redis.call('SREM', p .. 'working', id)
    redis.call('SADD', p .. 'waiting', id)
    return 1
end
if redis.call('EXISTS', p .. 'runners') == 0 and now - redis.call('HGET', job, 'created') > tonumber(ARGV[6]) then
    return fail(ARGV[8])
end
if now - redis.call('HGET', job, 'sent') < tonumber(ARGV[5]) then return 0 end
redis.call('HSET', job, 'sent', now)
return 1
"""
)


@dataclass(frozen=True)
class SharedJob:
    """A job as Redis knows it.

    Attributes:
        job: the look at it.
        arguments: from which its work is made.
    """

    job: Job
    arguments: Mapping[str, Any]


class JobStore:
    """Jobs in one Redis. Every method may raise StoreAwayError."""

    def __init__(self, link: RedisLink, keep_seconds: float, runner: str) -> None:
        """Make the store.

        Args:
            link: to Redis.
            keep_seconds: how long an ended job is kept.
            runner: name of this process, unlike all others.
        """
        self._link = link
        self._runner = runner
        self._prefix = f"{link.prefix}{LAYOUT}:"
        self._keep, self._remember = int(keep_seconds * 1000), REMEMBERED_SECONDS * 1000
        self._lease = int(LEASE_SECONDS * 1000)
        self._create, self._push = link.script(_CREATE), link.script(_PUSH)
        self._claim, self._cancel = link.script(_CLAIM), link.script(_CANCEL)
        self._look_after, self._hand_over = link.script(_LOOK_AFTER), link.script(_HAND_OVER)

    @property
    def runner(self) -> str:
        """Name of this process."""
        return self._runner

    def create(self, job: Job, arguments: Mapping[str, Any], here: bool, limit: int = -1) -> bool:
        """Make a job known; false if so many wait for a worker already.

        Args:
            job: as it is now.
            arguments: from which its work is made.
            here: whether this process works on it, rather than a worker.
            limit: jobs that may wait for a worker; any number if negative.
        """
        fields = _fields(job, {}) | {
            "arguments": orjson.dumps(arguments),
            "attempts": 0,
            "where": "process" if here else "worker",
        }
        if here:
            fields["runner"] = self._runner
        return bool(self._create([self._prefix], [job.id, limit, self._lease, *_flat(fields)]))

    def push(self, job: Job, error: Mapping[str, Any]) -> bool | None:
        """Tell how a job of this process is, which shows that its runner lives.

        Args:
            job: as it is now.
            error: the document of its error; empty where there is none.

        Returns:
            Whether somebody wants it to stop; None if another runner has it now.
        """
        ended = int(job.state in FINAL)
        arguments = [job.id, self._runner, self._lease, ended, self._keep, self._remember]
        answer = self._push([self._prefix], [*arguments, *_flat(_fields(job, error))])
        return None if answer < 0 else bool(answer)

    def claim(self, job_id: str) -> SharedJob | None:
        """Take a job to work on it; None if it has ended, or somebody works on it."""
        found = self._claim([self._prefix], [job_id, self._runner, self._lease])
        return None if found is None else _read(job_id, dict(zip(found[::2], found[1::2], strict=True)))

    def hand_over(self, job_id: str) -> None:
        """Give a job that was claimed back, for another worker to start it anew."""
        self._hand_over([self._prefix], [job_id, self._runner])

    def cancel(self, job_id: str) -> None:
        """Stop a job: at once if it waits for a worker, else its runner is told."""
        self._cancel([self._prefix], [job_id, self._keep, self._remember])

    def load(self, job_id: str) -> SharedJob | None:
        """A job by its id."""
        found = self._link.ask(lambda client: client.hgetall(f"{self._prefix}job:{job_id}"))
        return _read(job_id, found) if found else None

    def was_there(self, job_id: str) -> bool:
        """Whether a job of this id ended, not too long ago."""
        return bool(self._link.ask(lambda client: client.get(f"{self._prefix}seen:{job_id}")) == b"job")

    def look_after(self) -> list[str]:
        """End the jobs whose runner died, or give them to another.

        Returns:
            Ids to send to the workers.
        """
        ids = self._link.ask(lambda client: client.smembers(f"{self._prefix}jobs"))
        times = [self._keep, self._remember, MAX_ATTEMPTS, RESEND_SECONDS, NO_WORKER_SECONDS]
        errors = [orjson.dumps(LOST), orjson.dumps(NO_WORKER)]
        names = sorted(name.decode() for name in ids)
        return [name for name in names if self._look_after([self._prefix], [name, *times, *errors])]

    def show_worker(self) -> None:
        """Show that a worker lives."""
        name = f"{self._prefix}runners"
        self._link.ask(lambda client: client.set(name, self._runner, px=NO_WORKER_SECONDS * 1000))

    def has_worker(self) -> bool:
        """Whether a worker showed a moment ago that it lives."""
        left = self._link.ask(lambda client: client.pttl(f"{self._prefix}runners"))
        return bool(left > (NO_WORKER_SECONDS - FRESH_SECONDS) * 1000)

    def counts(self) -> dict[str, int]:
        """How many jobs wait for a worker, and on how many one works."""
        waiting, working = (
            self._link.ask(lambda client: client.scard(f"{self._prefix}waiting")),
            self._link.ask(lambda client: client.scard(f"{self._prefix}working")),
        )
        return {"queued": waiting, "running": working}


def _fields(job: Job, error: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": job.kind,
        "state": job.state,
        "version": job.version,
        "progress": orjson.dumps(dict(job.progress)),
        "result": orjson.dumps(job.result),
        "error": orjson.dumps(error),
        "owner": job.owner,
    }


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


def _read(job_id: str, values: Mapping[bytes, bytes]) -> SharedJob:
    error = orjson.loads(values[b"error"])
    state: State = values[b"state"].decode()  # type: ignore[assignment]
    job = Job(
        id=job_id,
        kind=values[b"kind"].decode(),
        state=state,
        version=int(values[b"version"]),
        progress=orjson.loads(values[b"progress"]),
        result=orjson.loads(values[b"result"]),
        error=FailedElsewhereError(error) if error else None,
        created=0.0,
        owner=values[b"owner"].decode(),
    )
    return SharedJob(job, orjson.loads(values.get(b"arguments", b"{}")))
