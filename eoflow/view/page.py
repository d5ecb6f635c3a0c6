"""A self-contained HTML page: sections, tables, figures inside it. No network, no script; all text is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from eoflow import __version__
from eoflow.times import iso

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eoflow.ingest.gaps import Gaps

MAX_GAPS = 20

_CSS = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5c6675; --line: #dfe3e8; --blue: #0072B2; --back: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
h1 { font-size: 28px; margin: 0; } h2 { font-size: 21px; margin: 0 0 4px; } h3 { font-size: 16px; margin: 22px 0 6px; }
header p, .soft, footer { color: var(--soft); margin: 2px 0 0; } footer { padding: 24px; font-size: 13px; }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px; margin: 22px 0; }
nav a { margin-right: 14px; } a { color: var(--blue); }
img { max-width: 100%; height: auto; display: block; margin: 8px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin: 6px 0; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: var(--soft); display: block; } td.best b { color: #00734f; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: var(--back); padding: 10px 12px; overflow-x: auto; }
.error { color: #a33c00; } ul { margin: 6px 0; padding-left: 20px; }
"""


@dataclass
class Page:
    """A page that is being put together from sections. `add_*` escape what they are given."""

    title: str
    subtitle: str = ""
    _parts: list[str] = field(default_factory=list)
    _anchors: list[tuple[str, str]] = field(default_factory=list)

    def section(self, title: str, note: str = "") -> None:
        """Start a section."""
        anchor = f"s{len(self._anchors)}"
        if self._anchors:
            self._parts.append("</section>")
        self._anchors.append((anchor, title))
        self._parts.append(f'<section id="{anchor}"><h2>{escape(title)}</h2>')
        if note:
            self.text(note, soft=True)

    def heading(self, text: str) -> None:
        """A heading inside a section."""
        self._parts.append(f"<h3>{escape(text)}</h3>")

    def text(self, text: str, *, soft: bool = False, error: bool = False) -> None:
        """A paragraph."""
        kind = ' class="error"' if error else ' class="soft"' if soft else ""
        self._parts.append(f"<p{kind}>{escape(text)}</p>")

    def lines(self, items: Sequence[str]) -> None:
        """A list."""
        if items:
            self._parts.append("<ul>" + "".join(f"<li>{escape(x)}</li>" for x in items) + "</ul>")

    def code(self, text: str) -> None:
        """Preformatted text."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]], numeric: Sequence[int] = ()) -> None:
        """A table. A cell is text, or (text, small text, best)."""
        out = ['<div class="wide"><table><tr>']
        out += [f"<th{_n(i, numeric)}>{escape(h)}</th>" for i, h in enumerate(head)]
        out.append("</tr>")
        for row in rows:
            out.append("<tr>" + "".join(_html_cell(c, i in numeric) for i, c in enumerate(row)) + "</tr>")
        self._parts.append("".join(out) + "</table></div>")

    def pairs(self, values: Mapping[str, Any]) -> None:
        """A table of names and values."""
        self.table(("", ""), [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items()])

    def figure(self, figure: Figure, alternative: str) -> None:
        """A figure as an embedded PNG."""
        from eoflow.view.style import png

        data = base64.b64encode(png(figure)).decode("ascii")
        self._parts.append(f'<img alt="{escape(alternative, quote=True)}" src="data:image/png;base64,{data}">')

    def html(self) -> str:
        """The whole document."""
        links = "".join(f'<a href="#{a}">{escape(t)}</a>' for a, t in self._anchors)
        body = "\n".join(self._parts) + ("</section>" if self._anchors else "")
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
            f"'unsafe-inline'\"><style>{_CSS}</style></head><body><header><h1>{escape(self.title)}</h1>"
            f"<p>{escape(self.subtitle)}</p><nav>{links}</nav></header><main>\n{body}\n</main>"
            f"<footer>eoflow {escape(__version__)}</footer></body></html>\n"
        )


def _n(index: int, numeric: Sequence[int]) -> str:
    return ' class="n"' if index in numeric else ""


def _html_cell(cell: Any, numeric: bool) -> str:
    if isinstance(cell, tuple):
        text, small, best = cell
        classes = " ".join(c for c, on in (("n", numeric), ("best", best)) if on)
        inner = f"<b>{escape(text)}</b>" if best else escape(text)
        return f'<td class="{classes}">{inner}<small>{escape(small)}</small></td>'
    return f"<td{' class=' + chr(34) + 'n' + chr(34) if numeric else ''}>{escape(str(cell))}</td>"


def gap_table(page: Page, found: Gaps) -> None:
    """The gaps of a dataset, at most so many."""
    if not found.ranges:
        return
    rows = [(iso(g.start), iso(g.end), g.count, g.status.word, g.reason) for g in found.ranges[:MAX_GAPS]]
    page.table(("from", "to", found.unit, "state", "reason"), rows, numeric=(2,))
    if len(found.ranges) > MAX_GAPS:
        page.text(f"and {len(found.ranges) - MAX_GAPS} more gaps: eoflow gaps {found.dataset}", soft=True)
