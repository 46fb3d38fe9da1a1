"""Self-contained HTML pages: tables, cards, figures in inline SVG, one style sheet.

No script, no request to anywhere; figures follow the reader's light or dark setting. Every function
escapes the text that it is given.
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ideareg import persistence, plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours of the figures, handed over to the style sheet.
THEMED = {
    plotting.INK: "var(--ink)",
    plotting.FAINT: "var(--line)",
    plotting.BLUE: "var(--blue)",
    plotting.ORANGE: "var(--orange)",
}


def number(value: Any, digits: int = 4) -> str:
    """Format a value for a reader: few digits, ∞ for infinity, a dash for what is not there."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.{digits}g}".replace("inf", "∞").replace("-", "−")
    return str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        side = "" if isinstance(value, str) else ' class="n"'
        return f"<td{side}>{escape(number(value))}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def card(label: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def note(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def figure(draw: Callable[[Axes], Any], alt: str, size: tuple[float, float] = (4.3, 3.5)) -> str:
    svg = plotting.as_svg(draw, size, alt)
    for colour, name in THEMED.items():
        svg = svg.replace(colour, name)
    return f'<figure role="img" aria-label="{escape(alt)}">{svg}</figure>'


def write_page(
    path: str | os.PathLike[str], title: str, notes: str, sections: Iterable[str]
) -> None:
    """Write one page: a heading, notes below it, and sections of HTML."""
    page = string.Template(PAGE).substitute(
        title=escape(title), notes=escape(notes), body="".join(sections), style=STYLE
    )
    with persistence.replacing(path) as stream:
        stream.write(page.encode())


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><style>$style</style></head>
<body><header><p class="brand">ideareg</p><h1>$title</h1><p>$notes</p></header>
<main>$body</main></body></html>
"""

STYLE = """
:root { --paper: #fbfaf7; --panel: #fff; --ink: #23272e; --soft: #646b76; --line: #cfd3da;
  --blue: #0072b2; --orange: #d55e00;
  --sans: "Inter", "Helvetica Neue", "Segoe UI", system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --panel: #1b1f26; --ink: #e4e7ec;
  --soft: #9aa3b0; --line: #3d444f; --blue: #56b4e9; --orange: #ff9e57; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.6 var(--sans); }
header, main { max-width: 66rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3.5rem; }
header p { color: var(--soft); margin: .3rem 0; }
.brand { color: var(--blue); font-weight: 600; letter-spacing: .08em; font-size: .85rem; }
h1 { font-size: 2.1rem; line-height: 1.2; font-weight: 600; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 0 0 .4rem; }
section { border-top: 1px solid var(--line); padding: 1.8rem 0; margin-top: 1.2rem; }
section > p { color: var(--soft); max-width: 44rem; margin: 0 0 1rem; }
.cards { display: grid; gap: 1rem; margin: 2rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.2rem; }
.card span, .card small { display: block; color: var(--soft); font-size: .82rem; }
.card b { font-size: 1.7rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.row { display: grid; gap: 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); }
figure { margin: 1rem 0 0; } svg { width: 100%; height: auto; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 500; white-space: nowrap; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
td.n { white-space: nowrap; }
"""
