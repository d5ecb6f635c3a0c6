"""What every flow shares: which errors are worth another try, and the run's report as an artifact.

Only `flows/` and `eoflow up` import this; it imports Prefect only when called.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eoflow.sources.base import AssetTransient

MOST_ROWS = 50
"""Rows of one table of an artifact; the store has the rest."""


def is_transient(error: BaseException | None) -> bool:
    """Whether trying again may help: the network or the provider, never a wrong input.

    True for AssetTransient, for lost or timed-out connections, and for errors that carry `transient = True`;
    the causes of an error count too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, AssetTransient | ConnectionError | TimeoutError) or getattr(error, "transient", False):
            return True
        error = error.__cause__ or error.__context__
    return False


def retry_if_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: try again after a transient error only."""
    result = state.result(raise_on_failure=False)
    return isinstance(result, BaseException) and is_transient(result)


RETRY_IF_TRANSIENT: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [30.0, 120.0, 600.0],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": retry_if_transient,
}
"""Options of a task that reads from elsewhere or waits for a lock."""


def markdown(title: str, report: Any) -> str:
    """A report (dataclass, mapping or text) as Markdown: a table of its plain values, one of each list of rows."""
    if isinstance(report, str):
        return f"# {title}\n\n{report}\n"
    plain: list[tuple[str, Any]] = []
    tables: list[str] = []
    for key, value in _items(report):
        rows = _rows(value)
        if rows is None:
            plain.append((key, value))
        elif rows:
            table = _table(list(rows[0]), [list(r.values()) for r in rows[:MOST_ROWS]])
            more = f"\n\n... and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
            tables.append(f"## {key}\n\n{table}{more}")
    head = _table(["", ""], [[k, v] for k, v in plain]) if plain else ""
    return "\n\n".join([f"# {title}", head, *tables]).rstrip() + "\n"


def _items(report: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(report, "to_dict"):
        return iter(report.to_dict().items())
    if dataclasses.is_dataclass(report):
        return ((f.name, getattr(report, f.name)) for f in dataclasses.fields(report))
    if isinstance(report, Mapping):
        return iter((str(k), v) for k, v in report.items())
    return iter([("result", report)])


def _rows(value: Any) -> list[dict[str, Any]] | None:
    """The rows of a list of mappings or dataclasses; None if `value` is something else."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    if all(isinstance(v, Mapping) or (dataclasses.is_dataclass(v) and not isinstance(v, type)) for v in value):
        return [dict(_items(v)) for v in value]
    return None


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text.replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= 300 else text[:297] + "..."


def publish(key: str, title: str, report: Any) -> str | None:
    """Store the report as the run's Markdown artifact; its id, or None outside a Prefect run (plain function call)."""
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import get_run_context
    from prefect.exceptions import MissingContextError

    try:
        get_run_context()
    except MissingContextError:
        return None
    safe = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
    return str(create_markdown_artifact(key=safe, markdown=markdown(title, report), description=title))
