"""What went wrong, said by whether it can be mended by trying again.

    AuditPipelineError
    +-- Invalid      the user's input; trying again cannot help; has a field path
    +-- Permanent    trying again cannot help, and the input was valid (an output refuses an event)
    |   +-- TooLarge  it was refused for its size alone: less of it may be taken
    +-- Retryable    trying again may help (a server that is down); may say when
    +-- Failed       a part of this process ended that has to run: only a new start helps

An error is raised once, where its kind is known, and translated once at each edge: an HTTP status on the wire, an exit
code on the command line, a condition's reason in the status. Messages say what to do next and never hold a secret.
"""

from __future__ import annotations


class AuditPipelineError(Exception):
    """Anything that auditpipeline raises on purpose."""


class Invalid(AuditPipelineError):
    """The user's input cannot be used; `path` is the field, as in `spec.policy.rules[2].level`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class Permanent(AuditPipelineError):
    """It will fail again the same way; what it concerned goes to the dead letters or to the user."""


class TooLarge(Permanent):
    """It is more than the other side takes at once; fewer events, or one without its bodies, may be taken."""


class Retryable(AuditPipelineError):
    """It may work later; `after` is the number of seconds that the other side asked to wait, if it did."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Failed(AuditPipelineError):
    """A part of this process ended that has to run. The process ends with exit code 1, so that it is started again."""
