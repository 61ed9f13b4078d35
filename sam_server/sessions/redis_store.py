"""The shared store in Redis.

Keys, behind the prefix of the installation and the version of this layout:

    session:ID          hash: picture, owner, and made:MARK, how many masks were made
    masks:ID            hash: mask_id -> logits
    sets:ID             list of the ids of its mask sets
    seen:ID             what became of a session or a mask set, kept for a while after it is gone
    set:ID, plan:ID     a mask set, and the plan by which it was grouped last
    picture:SHA256, embedding:MODEL:SHA256

All of them live as long as an unused session, and each use of the session renews them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sam_server.sessions.errors import ForgottenIdError, UnknownIdError
from sam_server.sessions.redis_link import RedisLink
from sam_server.sessions.shared_store import Known, SharedSession

LAYOUT = "1"
# How long an id is remembered after its session is gone, to tell "forgotten" from "never existed", in seconds.
REMEMBERED_SECONDS = 86_400
# The newest masks and mask sets of a session that are kept; a process may hold more of them in its own memory.
MAX_MASKS = 256
MAX_MASK_SETS = 64
_LIVE, _DELETED = b"live", b"deleted"
_MADE = "made:"

# KEYS: prefix. ARGV: id, time to live, time to remember (milliseconds).
_RENEW = """
local p, id, ttl, remember = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local function renew(model)
    local picture = redis.call('HGET', p .. 'session:' .. id, 'picture')
    for _, name in ipairs({'session:' .. id, 'masks:' .. id, 'sets:' .. id, 'picture:' .. picture}) do
        redis.call('PEXPIRE', p .. name, ttl)
    end
    redis.call('PEXPIRE', p .. 'embedding:' .. model .. ':' .. picture, ttl)
    redis.call('PEXPIRE', p .. 'seen:' .. id, ttl + remember)
    for _, set in ipairs(redis.call('LRANGE', p .. 'sets:' .. id, 0, -1)) do
        redis.call('PEXPIRE', p .. 'set:' .. set, ttl)
        redis.call('PEXPIRE', p .. 'plan:' .. set, ttl)
        redis.call('PEXPIRE', p .. 'seen:' .. set, ttl + remember)
    end
end
"""
# ARGV[4]: model.
_USE = (
    _RENEW
    + """
if redis.call('HEXISTS', p .. 'session:' .. id, 'picture') == 0 then
    return {false, redis.call('GET', p .. 'seen:' .. id), redis.call('PTTL', p .. 'seen:' .. id)}
end
renew(ARGV[4])
return {redis.call('HGETALL', p .. 'session:' .. id), redis.call('HLEN', p .. 'masks:' .. id),
        redis.call('LRANGE', p .. 'sets:' .. id, 0, -1)}
"""
)
# ARGV[4..]: model, picture, owner, then pairs of a field and a number that only grows.
_KEEP = (
    _RENEW
    + """
if redis.call('GET', p .. 'seen:' .. id) == 'deleted' then return 0 end
redis.call('HSET', p .. 'session:' .. id, 'picture', ARGV[5], 'owner', ARGV[6])
for place = 7, #ARGV, 2 do
    local now = tonumber(redis.call('HGET', p .. 'session:' .. id, ARGV[place]) or '0')
    if tonumber(ARGV[place + 1]) > now then redis.call('HSET', p .. 'session:' .. id, ARGV[place], ARGV[place + 1]) end
end
redis.call('SET', p .. 'seen:' .. id, 'live')
renew(ARGV[4])
return 1
"""
)
_COUNT = """
local session = KEYS[1] .. 'session:' .. ARGV[1]
if redis.call('HEXISTS', session, 'picture') == 0 then return false end
return redis.call('HINCRBY', session, 'made:', ARGV[2]) - ARGV[2] + 1
"""
_FORGET = """
local p, id, remember = KEYS[1], ARGV[1], ARGV[2]
for _, set in ipairs(redis.call('LRANGE', p .. 'sets:' .. id, 0, -1)) do
    redis.call('DEL', p .. 'set:' .. set, p .. 'plan:' .. set)
end
redis.call('DEL', p .. 'session:' .. id, p .. 'masks:' .. id, p .. 'sets:' .. id)
redis.call('SET', p .. 'seen:' .. id, 'deleted', 'PX', remember)
"""


class RedisStore:
    """`SharedStore` in one Redis; a cluster would cut the scripts apart."""

    def __init__(self, link: RedisLink, ttl_seconds: float) -> None:
        """Make the store.

        Args:
            link: to Redis.
            ttl_seconds: a session is forgotten when nobody used it for so long.
        """
        self._link = link
        self._prefix = f"{link.prefix}{LAYOUT}:"
        self._ttl = int(ttl_seconds * 1000)
        self._remember = REMEMBERED_SECONDS * 1000
        self._use, self._keep = link.script(_USE), link.script(_KEEP)
        self._count, self._forget = link.script(_COUNT), link.script(_FORGET)

    @property
    def is_away(self) -> bool:
        """See `SharedStore`."""
        return self._link.is_away

    @property
    def failures(self) -> int:
        """See `SharedStore`."""
        return self._link.failures

    def use(self, session_id: str, model: str) -> SharedSession:
        """See `SharedStore`."""
        fields, *rest = self._use([self._prefix], [session_id, self._ttl, self._remember, model])
        if fields is None:
            raise self._missing(session_id, *rest)
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        masks, sets = rest
        return SharedSession(
            id=session_id,
            picture=values[b"picture"].decode(),
            owner=values.get(b"owner", b"").decode(),
            made=_made(values),
            masks=masks,
            mask_sets=tuple(name.decode() for name in sets),
        )

    def _missing(self, name: str, seen: bytes | None, left: int) -> UnknownIdError | ForgottenIdError:
        if seen == _DELETED:
            return ForgottenIdError("session", name, "deleted")
        if seen != _LIVE:
            return UnknownIdError("session", name)
        # What is remembered for longer than usual was given up by Redis before its time.
        return ForgottenIdError("session", name, "evicted" if left > self._remember else "expired")

    def known(self, session_id: str, picture: str, model: str) -> Known:
        """See `SharedStore`."""
        answers = self._pipeline(
            ("EXISTS", self._name("picture", picture)),
            ("EXISTS", self._name("embedding", f"{model}:{picture}")),
            ("HKEYS", self._name("masks", session_id)),
            ("LRANGE", self._name("sets", session_id), 0, -1),
        )
        masks, sets = (frozenset(name.decode() for name in names) for names in answers[2:])
        return Known(bool(answers[0]), bool(answers[1]), masks, sets)

    def keep_session(self, session: SharedSession, model: str) -> bool:
        """See `SharedStore`."""
        counts = [part for mark, count in session.made.items() for part in (_MADE + mark, count)]
        arguments = [session.id, self._ttl, self._remember, model, session.picture, session.owner, *counts]
        return bool(self._keep([self._prefix], arguments))

    def forget_session(self, session_id: str) -> None:
        """See `SharedStore`."""
        self._forget([self._prefix], [session_id, self._remember])

    def picture(self, picture: str) -> bytes | None:
        """See `SharedStore`."""
        return self._get("picture", picture)

    def keep_picture(self, picture: str, data: bytes) -> None:
        """See `SharedStore`."""
        self._set("picture", picture, data)

    def embedding(self, picture: str, model: str) -> bytes | None:
        """See `SharedStore`."""
        return self._get("embedding", f"{model}:{picture}")

    def keep_embedding(self, picture: str, model: str, data: bytes, replace: bool = False) -> bool:
        """See `SharedStore`."""
        name = self._name("embedding", f"{model}:{picture}")
        return bool(self._link.ask(lambda client: client.set(name, data, px=self._ttl, nx=not replace)))

    def count_masks(self, session_id: str, count: int) -> int | None:
        """See `SharedStore`."""
        first: int | None = self._count([self._prefix], [session_id, count])
        return first

    def keep_masks(self, session_id: str, masks: Mapping[str, bytes]) -> None:
        """See `SharedStore`."""
        name = self._name("masks", session_id)
        fields = [part for pair in masks.items() for part in pair]
        *_, there = self._pipeline(("HSET", name, *fields), ("PEXPIRE", name, self._ttl), ("HKEYS", name))
        if len(there) > MAX_MASKS:
            oldest = sorted((mask.decode() for mask in there), key=_number)[: len(there) - MAX_MASKS]
            self._pipeline(("HDEL", name, *oldest))

    def mask(self, session_id: str, mask_id: str) -> bytes | None:
        """See `SharedStore`."""
        data: bytes | None = self._link.ask(lambda client: client.hget(self._name("masks", session_id), mask_id))
        return data

    def keep_mask_set(self, session_id: str, set_id: str, data: bytes, plan: bytes | None) -> None:
        """See `SharedStore`."""
        sets = self._name("sets", session_id)
        self._pipeline(
            ("SET", self._name("set", set_id), data, "PX", self._ttl),
            ("SET", self._name("seen", set_id), session_id, "PX", self._ttl + self._remember),
            ("LREM", sets, 0, set_id),
            ("RPUSH", sets, set_id),
            ("PEXPIRE", sets, self._ttl),
        )
        if plan is not None:
            self.keep_plan(set_id, plan)
        for old in self._link.ask(lambda client: client.lrange(sets, 0, -MAX_MASK_SETS - 1)):
            self._pipeline(("LREM", sets, 0, old), ("DEL", self._name("set", old.decode())))

    def mask_set(self, set_id: str) -> bytes | None:
        """See `SharedStore`."""
        return self._get("set", set_id)

    def find_mask_set(self, set_id: str) -> tuple[str | None, bytes | None]:
        """See `SharedStore`."""
        owner, plan = self._pipeline(("GET", self._name("seen", set_id)), ("GET", self._name("plan", set_id)))
        return (None if owner in (None, _LIVE, _DELETED) else owner.decode()), plan

    def keep_plan(self, set_id: str, plan: bytes) -> None:
        """See `SharedStore`."""
        self._set("plan", set_id, plan)

    def _name(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _get(self, kind: str, name: str) -> bytes | None:
        data: bytes | None = self._link.ask(lambda client: client.get(self._name(kind, name)))
        return data

    def _set(self, kind: str, name: str, data: bytes) -> None:
        self._link.ask(lambda client: client.set(self._name(kind, name), data, px=self._ttl))

    def _pipeline(self, *commands: tuple[Any, ...]) -> list[Any]:
        """All commands in one round trip, all of them or none."""

        def ask(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=True)
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute()
            return answers

        return self._link.ask(ask)


def _made(values: Mapping[bytes, bytes]) -> dict[str, int]:
    pairs: Iterable[tuple[str, bytes]] = ((name.decode(), count) for name, count in values.items())
    return {name.removeprefix(_MADE): int(count) for name, count in pairs if name.startswith(_MADE)}


def _number(mask_id: str) -> int:
    digits = mask_id.removeprefix("m").partition("-")[0]
    return int(digits) if digits.isdigit() else 0
