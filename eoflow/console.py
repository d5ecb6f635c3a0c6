"""How the command line speaks: rich on a terminal, one JSON document with --json, errors for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from eoflow.workspace import Workspace

Progress = Callable[[float, float, str], None]


@dataclass
class Options:
    """Global options of this call."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    workspace: str | None = None


OPTIONS = Options()
WITH_VALUE = ("--workspace", "--dask")
FLAGS = ("--json", "--quiet", "--debug", "--version")
"""Global options, with and without a value."""
NO_SCREEN = 200
"""Columns of a table that goes into a file or a pipe, where nothing says how wide the page is."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def said() -> str:
    """The command as it was typed, for provenance: without the global options, which change where and how it is shown,
    not what is made (and no secret ever stands on a command line of ours)."""
    kept: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif word not in FLAGS and not word.startswith(tuple(f"{o}=" for o in WITH_VALUE)):
            kept.append(word)
    return " ".join(["eoflow", *kept])


def workspace() -> Workspace:
    """The workspace of this call."""
    from eoflow.workspace import Workspace

    return Workspace(OPTIONS.workspace)


def console() -> Console:
    """The console for people: standard output, or standard error when a JSON document has that."""
    from rich.console import Console

    out = Console(stderr=OPTIONS.json, quiet=OPTIONS.quiet, highlight=False, soft_wrap=True)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = NO_SCREEN
    return out


def emit(document: Any, show: Callable[[Console], None] | None = None) -> None:
    """The result of a verb: the JSON document with --json, else whatever `show` prints."""
    if OPTIONS.json:
        sys.stdout.write(json.dumps(document, indent=1, default=str, allow_nan=False) + "\n")
    elif show is not None:
        show(console())


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A rich progress bar as a `progress(done, total, text)` callback; silent with --quiet, --json and off a terminal.

    Each new phase (another total) is a new bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    screen = Console(stderr=True)
    if OPTIONS.quiet or OPTIONS.json or not screen.is_terminal:
        yield lambda done, total, text: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=screen, transient=True, redirect_stdout=False) as bar:
        task, size = None, -1.0

        def report(done: float, total: float, text: str) -> None:
            nonlocal task, size
            if task is None or total != size:
                if task is not None:
                    bar.remove_task(task)
                task, size = bar.add_task(title, total=total, note=""), total
            bar.update(task, completed=done, note=text)

        yield report


def fail(error: BaseException) -> int:
    """Report an error and return the exit code: of an EoflowError its own, 130 for an interrupt, else 1."""
    from eoflow.errors import EoflowError

    if isinstance(error, KeyboardInterrupt):
        _say("interrupted", INTERRUPTED)
        sys.stderr.write("interrupted; run the same line again to go on\n")
        return INTERRUPTED
    if OPTIONS.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, EoflowError):
        code, text = error.exit_code, error.text()
    else:
        code = 1
        text = f"unexpected {type(error).__name__}: {error}\n  to do: run again with --debug and report what it prints"
    _say(text, code)
    sys.stderr.write(f"error: {text}\n")
    return code


def misused(error: Any) -> int:
    """Report a line that cannot be parsed (a TyperException) and return its exit code."""
    show = getattr(error, "show", None)  # usage errors know how to show the line that was wrong
    show() if show else sys.stderr.write(f"error: {error}\n")
    code = int(error.exit_code)
    _say(error.format_message(), code)
    return code


def _say(text: str, code: int) -> None:
    """An error as the JSON document that --json promises."""
    if OPTIONS.json:
        sys.stdout.write(json.dumps({"error": text, "exit_code": code}) + "\n")
