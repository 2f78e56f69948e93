"""Turns an exception that ended a round into a condition, and says how long it is forgiven. Pure.

    Halt          a step says by itself what is in the way
    BeingDeleted  a former object of the name is not gone yet
    Forbidden     an administrator has to grant something       Invalid    the user has to change something
    Permanent     somebody has to mend what the message names   Retryable  it is tried again
    anything else is a fault of this program: the log has its traceback

An API server that has just started refuses requests for a moment, also as Forbidden. For GRACE seconds since the first
of them in a row, such an exception says nothing of a pipeline of which something is known; after that it is said.
"""

from __future__ import annotations

from auditpipeline.control.facts import Problem
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.rounds import Halt
from auditpipeline.control.world import BeingDeleted
from auditpipeline.core.errors import Invalid, Permanent, Retryable

GRACE = 5.0
"""Seconds. What is broken may not be called Ready for more than ten, and a look may come late."""

REASONS: dict[type[Exception], tuple[str, bool]] = {
    BeingDeleted: ("BeingDeleted", False),
    Forbidden: ("Forbidden", True),
    Invalid: ("InvalidSpec", True),
    Permanent: ("Blocked", True),
    Retryable: ("Retrying", False),
}
"""Reason and whether it is Stalled, by kind of error; the first that fits."""


def problem_of(error: Exception) -> tuple[Problem, bool]:
    """Reason and message, and whether somebody has to change something (Stalled)."""
    if isinstance(error, Halt):
        return error.problem, error.stalled
    for kind, (reason, stalled) in REASONS.items():
        if isinstance(error, kind):
            return Problem(reason, str(error)), stalled
    return fault(error), False


def fault(error: Exception) -> Problem:
    """Reason and message of a fault of ours; the rest is in the log."""
    message = f"the operator failed ({type(error).__name__}) and tries again: see its log, and report it as a fault"
    return Problem("InternalError", message)


def is_forgivable(error: Exception) -> bool:
    """Whether it may be over at the next try. What a step says by itself was seen, and is not forgiven; but an API
    server that has just started may not know a permission yet, whoever says it."""
    if isinstance(error, Halt):
        return error.problem.reason == "Forbidden"
    return not isinstance(error, (BeingDeleted, Invalid))
