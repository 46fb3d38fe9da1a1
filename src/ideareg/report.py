"""One self-contained HTML file per fit: what the data were, what the warp gained, what it did.

No script, no request to anywhere; figures are inline SVG that follows the reader's light or dark
setting. All text that comes from the user is escaped.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from ideareg import page, persistence, plotting
from ideareg.bent import BentMixture
from ideareg.calibration import Mixture, coverage

if TYPE_CHECKING:
    pass

MAX_COLUMNS = 60
LEVELS = (0.5, 0.8, 0.9, 0.95)
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
    pit, crps : ndarray, shape (n,)
        The predicted probability of an observation below the target, and the continuous ranked
        probability score; see `ideareg.calibration`.
    """

    y: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    log_density: np.ndarray
    pit: np.ndarray
    crps: np.ndarray

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
        return coverage(self.pit, level)


def held_out(model: Any, X: Any, y: Any) -> HeldOut:
    """Predict rows that were not fitted.

    Parameters
    ----------
    model : WarpingRegressor, Pipeline that ends in one, or any regressor with ``return_std``
        Fitted. One without ``predict_mixture`` counts as Gaussian.
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
    if hasattr(model, "predict_mixture"):
        forecast: Mixture | BentMixture = model.predict_mixture(X)
    else:
        mean, std = (np.asarray(a, dtype=float) for a in model.predict(X, return_std=True))
        forecast = Mixture.normal(mean, np.maximum(std, np.finfo(float).tiny))
    scores = forecast.log_density(y), forecast.pit(y), forecast.crps(y)
    return HeldOut(y, *forecast.moments(), *scores)


# ---------------------------------------------------------------- sections


def _gain(warped: HeldOut, plain: HeldOut | None) -> str:
    def against(value: Callable[[HeldOut], float]) -> str:
        return f"{page.number(value(plain))} without the warp" if plain else "on held-out rows"

    cards = [
        page.card("RMSE", page.number(warped.rmse), against(lambda h: h.rmse)),
        page.card("log-likelihood", page.number(warped.ll), against(lambda h: h.ll)),
        page.card("90 % intervals hold", f"{100 * warped.coverage():.0f} %", "of held-out targets"),
    ]
    if plain:
        saved = f"{100 * (1 - warped.rmse / max(plain.rmse, 1e-300)):+.1f} %"
        nats = f"{warped.ll - plain.ll:+.3f}".replace("-", "−")
        note = f"of RMSE, {nats} in log-likelihood"
        cards.append(page.card("the warp gained", saved.replace("-", "−"), note))
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
            what = f"{page.number(float(present.min()))} … {page.number(float(present.max()))}"
            middle: Any = float(present.median())
        else:
            top = present.mode().iloc[0] if len(present) else ""
            what, middle = f"{present.nunique()} values, mostly {top}", None
        rows.append((name, what, middle, int(column.isna().sum())))
    low, high, mean, deviation = map(page.number, (y.min(), y.max(), y.mean(), y.std()))
    rows.append((f"{target} (target)", f"{low} … {high}", np.median(y), 0))
    hidden = len(table.columns) - len(names)
    return page.section(
        "Data",
        page.note(
            f"{len(y):,} rows; columns: {len(table.columns)}; gaps: "
            f"{sum(int(table[name].isna().sum()) for name in table.columns):,}. The target "
            f"{target} has mean {mean} and standard deviation {deviation}."
        ),
        page.table(("column", "range", "median", "gaps"), rows),
        page.note(f"{hidden} more columns are not shown.") if hidden > 0 else "",
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
    return page.section(
        "Accuracy and honesty on held-out rows",
        page.note(
            "These rows took no part in the fit. An interval is honest when it holds about as many "
            "of them as it promises; the log-likelihood rewards being right and knowing how right."
        ),
        page.table(head, rows),
        '<div class="row">',
        page.figure(lambda ax: plotting.predictions(*three, ax=ax), "Held-out predictions"),
        page.figure(lambda ax: plotting.calibration(*three, ax=ax), "Calibration"),
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
    return page.section(
        "The physics of the fit",
        page.note(
            "Depth is a flow that conserves energy, so its layers cost nearly the same; the drift "
            "is how far they depart from the first. The terminal residual says how far the last "
            "momentum is from balancing the gradient of the loss, which it does at an optimum and "
            "not quite where a fit stops early. ν = ∞ is a member of the stack without a warp."
        ),
        page.table(head, rows),
        '<div class="row">',
        page.figure(lambda ax: plotting.energy(ledgers, ax=ax), "Energy per layer"),
        page.figure(lambda ax: plotting.history(model.history_, ax=ax), "Convergence"),
        "</div>",
    )


def _selection(model: Any) -> str:
    results: Mapping[str, Any] = getattr(model, "cv_results_", None) or {}
    columns = {name: np.asarray(values).tolist() for name, values in results.items()}
    if not columns:  # one candidate: nothing was compared
        return ""
    head = [name.removeprefix("param_").replace("_", " ") for name in columns]
    head = ["ν" if name == "nu" else name for name in head]
    bent = "Those that are bent predict the target after a power that takes the skew out of it."
    near = (
        "What the heads leave of the targets is alike where rows nearly repeat: the residuals of "
        "the nearest rows correct predictions, which these densities do not know of yet."
    )
    return page.section(
        "How much warp, by cross-validation",
        page.note(
            "ν weighs the cost of warping; ν = ∞ is no warp. Candidates are compared by mean log "
            "predictive density of rows left out, "
            f"{page.number(getattr(model, 'baseline_score_', None))} for the head alone and "
            f"{page.number(getattr(model, 'score_', None))} for the model that was kept."
        ),
        page.note(bent) if any(columns.get("param_bend", ())) else "",
        page.note(near) if np.any(getattr(model, "local_share_", 0.0)) else "",
        page.table(head, zip(*columns.values(), strict=True)),
    )


def _settings(model: Any) -> str:
    parameters = [
        (name, page.number(value)) for name, value in model.get_params(deep=False).items()
    ]
    versions = [("ideareg", persistence.library_version()), ("Python", platform.python_version())]
    versions += [
        (name, importlib.metadata.version(name))
        for name in ("jax", "numpy", "scipy", "scikit-learn")
    ]
    return page.section(
        "Parameters and versions",
        '<div class="row">',
        page.table(("parameter", "value"), parameters),
        page.table(("software", "version"), versions),
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
        page.section(
            "How the space was warped",
            page.note(PICTURE[min(matrix.shape[1], 2)]),
            page.figure(
                lambda ax: plotting.warped_space(final, matrix, names=names, ax=ax),
                "How the space was warped",
                (7.2, 5.6),
            ),
        ),
        _physics(final),
        _selection(final),
        _settings(final),
    ]
    page.write_page(path, title, notes, body)


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
