"""Errors for people: what was wrong, where, and what to do. The exit code travels with the type."""

from __future__ import annotations


class EoflowError(Exception):
    """Base of every error that eoflow raises on purpose.

    `what` says what was wrong, `where` names file, variable, time or window, `todo` the next step.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(self.text())

    def text(self) -> str:
        """The message as a person reads it, one to three lines."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.todo:
            lines.append(f"  to do: {self.todo}")
        return "\n".join(lines)


class BadInput(EoflowError):
    """The input is wrong (exit 2). Raised before anything is changed."""

    exit_code = 2


class NotYet(BadInput):
    """Nothing is wrong, but what is asked for cannot be had yet (no truth has arrived): exit 2, try again later."""


class SchemaMismatch(BadInput):
    """Two field schemas that must agree do not; the message prints both sides and the fix."""


class Failure(EoflowError):
    """The input was right but the work failed (exit 1)."""


class MissingExtra(Failure):
    """An optional dependency is not installed; the message has the line that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed, and this verb needs it", todo=f'pip install "eoflow[{extra}]"')
