"""The work of jobs, made from JSON values: here, or in another process that has nothing but these."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sam_server.automatic.parameters import AutomaticParameters
from sam_server.grouping.group import GroupResult
from sam_server.grouping.plan import Plan
from sam_server.jobs.queue import JobContext
from sam_server.sessions.kept import Session
from sam_server.sessions.mask_sets import KeptMaskSet
from sam_server.web.mask_sets import generate_work
from sam_server.web.problems import describe
from sam_server.web.state import Server

Work = Callable[[JobContext], Any]


def arguments_of(session: Session, parameters: AutomaticParameters, plan: Plan | None = None) -> dict[str, Any]:
    """What a search is made from, and the grouping that follows it, as JSON values."""
    return {
        "session_id": session.id,
        "parameters": asdict(parameters),
        "plan": None if plan is None else plan.to_dict(),
    }


def make_work(state: Server, arguments: Mapping[str, Any], session: Session | None = None) -> Work:
    """Work for the job queue that finds every mask of a session's picture, and groups them; gives `JobResultOut`.

    Args:
        state: of the server that works.
        arguments: of `arguments_of`.
        session: where it is at hand already.
    """
    parameters = AutomaticParameters(**arguments["parameters"])
    plan = None if arguments["plan"] is None else Plan.from_dict(arguments["plan"])

    def work(context: JobContext) -> dict[str, Any]:
        found = session or state.sessions.get(arguments["session_id"])
        result = generate_work(state, found, parameters)(context)
        if plan is not None:
            group_set(state, result["mask_set_id"], plan)
        return result

    return _described(work)


def group_set(state: Server, set_id: str, plan: Plan) -> tuple[Session, KeptMaskSet, GroupResult]:
    """Group a kept mask set; the result is remembered with it, for exports."""
    session, kept = state.sessions.mask_set(set_id)
    assert isinstance(kept, KeptMaskSet)
    result = kept.group(plan)
    state.sessions.keep_grouping(set_id, kept)
    return session, kept, result


def _described(work: Work) -> Work:
    """The same work, whose errors are problems, where they are the caller's affair."""

    def run(context: JobContext) -> Any:
        try:
            return work(context)
        except Exception as error:
            problem = describe(error)
            if problem is None:
                raise
            raise problem from error

    return run
