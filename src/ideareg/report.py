"""One self-contained HTML file per fit: what the data were, what the warp gained, what it did.

No script, no request to anywhere; figures are inline SVG that follows the reader's light or dark
setting. All text that comes from the user is escaped.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm
from sklearn.pipeline import Pipeline

from ideareg import persistence, plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLUMNS = 60
LEVELS = (0.5, 0.8, 0.9, 0.95)
# Colours of the figures, handed over to the style sheet.
THEMED = {
    plotting.INK: "var(--ink)",
    plotting.FAINT: "var(--line)",
    plotting.BLUE: "var(--blue)",
    plotting.ORANGE: "var(--orange)",
}
PICTURE = {
    1: "Where the curve is steep the model gives room to change; where it is flat it sees little "
    "to tell apart. Dashed: no warp.",
    2: "A grid over the two inputs that move most, the others at their medians, carried by the "
    "flow. Where its lines spread the model gives room to change; where they close up it sees "
    "little to tell apart. Grey: the grid before.",
}


# ---------------------------------------------------------------- held-out scores


@dataclass(frozen=True)
class HeldOut:
    """Predictions for rows that were not fitted.

    Attributes
    ----------
    y, mean, std, log_density : ndarray, shape (n,)
        Targets, predictions, standard deviations of a new observation, and the logarithm of the
        predictive density at the target, in the target's units.
    """

    y: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    log_density: np.ndarray

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return float(np.sqrt(np.mean((self.y - self.mean) ** 2)))

    @property
    def ll(self) -> float:
        """Mean log predictive density."""
        return float(np.mean(self.log_density))

    def coverage(self, level: float = 0.9) -> float:
        """Return the share of targets within the central interval of probability ``level``."""
        reach = norm.ppf((1 + level) / 2) * self.std
        return float(np.mean(np.abs(self.y - self.mean) <= reach))


def held_out(model: Any, X: Any, y: Any) -> HeldOut:
    """Predict rows that were not fitted.

    Parameters
    ----------
    model : WarpingRegressor, Pipeline that ends in one, or any regressor with ``return_std``
        Fitted. One without ``log_predictive_density`` counts as Gaussian.
    X : array-like or table
        The rows, as ``model`` takes them.
    y : array-like, shape (n,)
        Their targets.

    Returns
    -------
    HeldOut
    """
    y = np.asarray(y, dtype=float)
    if isinstance(model, Pipeline):
        X, model = model[:-1].transform(X), model[-1]
    mean, std = (np.asarray(a, dtype=float) for a in model.predict(X, return_std=True))
    if hasattr(model, "log_predictive_density"):
        density = np.asarray(model.log_predictive_density(X, y), dtype=float)
    else:
        density = norm.logpdf(y, mean, std)
    return HeldOut(y, mean, std, density)


# ---------------------------------------------------------------- HTML


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


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        side = "" if isinstance(value, str) else ' class="n"'
        return f"<td{side}>{escape(number(value))}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _card(label: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _note(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _figure(draw: Callable[[Axes], Any], alt: str, size: tuple[float, float] = (4.3, 3.5)) -> str:
    svg = plotting.as_svg(draw, size, alt)
    for colour, name in THEMED.items():
        svg = svg.replace(colour, name)
    return f'<figure role="img" aria-label="{escape(alt)}">{svg}</figure>'


# ---------------------------------------------------------------- sections


def _gain(warped: HeldOut, plain: HeldOut | None) -> str:
    def against(value: Callable[[HeldOut], float]) -> str:
        return f"{number(value(plain))} without the warp" if plain else "on held-out rows"

    cards = [
        _card("RMSE", number(warped.rmse), against(lambda h: h.rmse)),
        _card("log-likelihood", number(warped.ll), against(lambda h: h.ll)),
        _card("90 % intervals hold", f"{100 * warped.coverage():.0f} %", "of held-out targets"),
    ]
    if plain:
        saved = f"{100 * (1 - warped.rmse / max(plain.rmse, 1e-300)):+.1f} %"
        nats = f"{warped.ll - plain.ll:+.3f}".replace("-", "−")
        note = f"of RMSE, {nats} in log-likelihood"
        cards.append(_card("the warp gained", saved.replace("-", "−"), note))
    return f'<div class="cards">{"".join(cards)}</div>'


def _data(table: Any, y: np.ndarray, target: str) -> str:
    """Summarise the columns of a table, and the target."""
    names = [str(name) for name in table.columns][:MAX_COLUMNS]
    rows = []
    for name in names:
        column = table[name]
        present = column.dropna()
        # Booleans count as text here: their mean and range say little.
        kind = column.dtype.kind if hasattr(column.dtype, "kind") else "O"
        if kind in "iuf" and len(present):
            what = f"{number(float(present.min()))} … {number(float(present.max()))}"
            middle: Any = float(present.median())
        else:
            top = present.mode().iloc[0] if len(present) else ""
            what, middle = f"{present.nunique()} values, mostly {top}", None
        rows.append((name, what, middle, int(column.isna().sum())))
    rows.append((f"{target} (target)", f"{number(y.min())} … {number(y.max())}", np.median(y), 0))
    hidden = len(table.columns) - len(names)
    return _section(
        "Data",
        _note(
            f"{len(y):,} rows; columns: {len(table.columns)}; gaps: "
            f"{sum(int(table[name].isna().sum()) for name in table.columns):,}. The target "
            f"{target} has mean {number(y.mean())} and standard deviation {number(y.std())}."
        ),
        _table(("column", "range", "median", "gaps"), rows),
        _note(f"{hidden} more columns are not shown.") if hidden > 0 else "",
    )


def _accuracy(warped: HeldOut, plain: HeldOut | None) -> str:
    rows = [
        (name, len(h.y), h.rmse, h.ll, *(f"{100 * h.coverage(level):.0f} %" for level in LEVELS))
        for name, h in (("this model", warped), ("without the warp", plain))
        if h is not None
    ]
    head = (
        "model",
        "rows",
        "RMSE",
        "log-likelihood",
        *(f"{100 * p:.0f} % interval" for p in LEVELS),
    )
    three = (warped.y, warped.mean, warped.std)
    return _section(
        "Accuracy and honesty on held-out rows",
        _note(
            "These rows took no part in the fit. An interval is honest when it holds about as many "
            "of them as it promises; the log-likelihood rewards being right and knowing how right."
        ),
        _table(head, rows),
        '<div class="row">',
        _figure(lambda ax: plotting.predictions(*three, ax=ax), "Held-out predictions"),
        _figure(lambda ax: plotting.calibration(*three, ax=ax), "Calibration"),
        "</div>",
    )


def _physics(model: Any) -> str:
    ledgers = list(getattr(model, "ledgers_", None) or [model.ledger_])
    weights = list(getattr(model, "warp_weights_", [1.0] * len(ledgers)))
    rows = [
        (
            float(ledger.get("nu", math.nan)),
            float(weight),
            float(np.mean(ledger["energy"])) if len(ledger["energy"]) else None,
            *(ledger.get(key) for key in ("energy_drift", "action", "terminal_residual")),
            bool(ledger.get("converged", False)),
        )
        for ledger, weight in zip(ledgers, weights, strict=True)
    ]
    head = (
        "ν",
        "weight in the stack",
        "mean energy",
        "drift",
        "action",
        "terminal residual",
        "converged",
    )
    return _section(
        "The physics of the fit",
        _note(
            "Depth is a flow that conserves energy, so its layers cost nearly the same; the drift "
            "is how far they depart from the first. The terminal residual says how far the last "
            "momentum is from balancing the gradient of the loss, which it does at an optimum and "
            "not quite where a fit stops early. ν = ∞ is a member of the stack without a warp."
        ),
        _table(head, rows),
        '<div class="row">',
        _figure(lambda ax: plotting.energy(ledgers, ax=ax), "Energy per layer"),
        _figure(lambda ax: plotting.history(model.history_, ax=ax), "Convergence"),
        "</div>",
    )


def _selection(model: Any) -> str:
    results: Mapping[str, Any] = getattr(model, "cv_results_", None) or {}
    columns = {name: np.asarray(values).tolist() for name, values in results.items()}
    if not columns:  # one candidate: nothing was compared
        return ""
    head = [name.removeprefix("param_").replace("_", " ") for name in columns]
    head = ["ν" if name == "nu" else name for name in head]
    return _section(
        "How much warp, by cross-validation",
        _note(
            "ν weighs the cost of warping; ν = ∞ is no warp. Candidates are compared by mean log "
            "predictive density of rows left out, "
            f"{number(getattr(model, 'baseline_score_', None))} for the head alone and "
            f"{number(getattr(model, 'score_', None))} for the model that was kept."
        ),
        _table(head, zip(*columns.values(), strict=True)),
    )


def _settings(model: Any) -> str:
    parameters = [(name, number(value)) for name, value in model.get_params(deep=False).items()]
    versions = [("ideareg", persistence.library_version()), ("Python", platform.python_version())]
    versions += [
        (name, importlib.metadata.version(name))
        for name in ("jax", "numpy", "scipy", "scikit-learn")
    ]
    return _section(
        "Parameters and versions",
        '<div class="row">',
        _table(("parameter", "value"), parameters),
        _table(("software", "version"), versions),
        "</div>",
    )


def write_report(
    path: str | os.PathLike[str],
    model: Any,
    X: Any,
    y: Any,
    *,
    warped: HeldOut | None = None,
    plain: HeldOut | None = None,
    title: str = "ideareg",
    target: str = "y",
    notes: str = "",
) -> None:
    """Write one HTML file that describes a fit, whole or not at all.

    Parameters
    ----------
    path : path-like
        Where to write.
    model : WarpingRegressor, or Pipeline that ends in one
        Fitted.
    X : pandas.DataFrame or array-like, shape (n, d)
        The data of the fit, as ``model`` takes them.
    y : array-like, shape (n,)
        Its targets.
    warped, plain : HeldOut, optional
        Held-out predictions of the model, and of the same head without a warp; see `held_out`.
        What is not given is left out.
    title, target, notes : str
        A heading, the name of the target, and a line below the heading.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    y = np.asarray(y, dtype=float)
    final, matrix, names = _final_step(model, X)
    body = [
        _gain(warped, plain) if warped else "",
        _data(X, y, target) if hasattr(X, "columns") else "",
        _accuracy(warped, plain) if warped else "",
        _section(
            "How the space was warped",
            _note(PICTURE[min(matrix.shape[1], 2)]),
            _figure(
                lambda ax: plotting.warped_space(final, matrix, names=names, ax=ax),
                "How the space was warped",
                (7.2, 5.6),
            ),
        ),
        _physics(final),
        _selection(final),
        _settings(final),
    ]
    page = string.Template(PAGE).substitute(
        title=escape(title), notes=escape(notes), body="".join(body), style=STYLE
    )
    with persistence.replacing(path) as stream:
        stream.write(page.encode())


def _final_step(model: Any, X: Any) -> tuple[Any, np.ndarray, list[str]]:
    """Return the regressor, the matrix it gets, and the names of the columns."""
    if isinstance(model, Pipeline):
        matrix = np.asarray(model[:-1].transform(X), dtype=float)
        full = [str(name) for name in model[-2].get_feature_names_out()]
        return model[-1], matrix, [name.partition("__")[2] or name for name in full]
    names = getattr(model, "feature_names_in_", None)
    matrix = np.asarray(X, dtype=float)
    if names is None:
        names = [f"column {i}" for i in range(matrix.shape[1])]
    return model, matrix, [str(name) for name in names]


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
