r"""Noise that grows: what a model says when its noise may depend on the inputs.

.. code-block:: console

    $ python examples/plot_varying_noise.py --out figures

By default a formula whose noise is known: a sine with noise from 0.15 to 1.2. ``--data DIR`` takes
the motorcycle data instead, ``sci_mcycle.npz`` (Silverman 1985), where folds judge. With constant
noise an interval is too wide where it is calm and too narrow where it is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ideareg import HeteroscedasticRegressor, WarpingRegressor, plotting
from ideareg.calibration import coverage
from ideareg.plotting.style import dress


def size(x: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the noise."""
    return 0.15 * 8 ** x[:, 0]


def table(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of the formula."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(rows, 1))
    return x, np.sin(6 * x[:, 0]) + size(x) * rng.normal(size=rows)


def models(options: dict[str, Any]) -> dict[str, Any]:
    """Return both models, not fitted."""
    plain = WarpingRegressor(random_state=0, verbose=0, **options)
    varying = HeteroscedasticRegressor(plain, random_state=0)
    return {"constant noise": plain, "varying noise": varying}


def judge(name: str, pit: np.ndarray, density: np.ndarray, x: np.ndarray) -> None:
    """Print how well rows that were not fitted are predicted, by thirds of the inputs."""
    third = np.digitize(x[:, 0], np.quantile(x[:, 0], [1 / 3, 2 / 3]))
    held = ", ".join(f"{coverage(pit[third == k]):.0%}" for k in range(3))
    print(f"{name}: log-likelihood {density.mean():.3f}; 90 % intervals hold {held} of each third")


def cross_validate(model: Any, X: np.ndarray, y: np.ndarray, folds: int) -> Any:
    """Return PIT and log density of each row under a fit that has not seen it."""
    from sklearn.base import clone

    fold = np.random.RandomState(0).permutation(np.arange(len(y)) % folds)
    pit, density = np.empty(len(y)), np.empty(len(y))
    for k in range(folds):
        out = fold == k
        fitted = clone(model).fit(X[~out], y[~out])
        pit[out] = fitted.pit(X[out], y[out])
        density[out] = fitted.log_predictive_density(X[out], y[out])
    return pit, density


def draw(fitted: dict[str, Any], X: np.ndarray, y: np.ndarray, known: bool, file: Path) -> None:
    """Draw both predictions, and the noise that they found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    *places, last = figure.subplots(1, 3)
    at = np.linspace(X.min(), X.max(), 300)[:, None]
    for ax, (name, model) in zip(places, fitted.items(), strict=True):
        plotting.predictive(model, X, y, samples=0, ax=ax)
        dress(ax, name.capitalize(), "x", "y")
    places[0].set_ylim(places[1].get_ylim())
    varying = fitted["varying noise"]
    last.plot(at, varying.noise_std(at), color=plotting.BLUE, label="found")
    if known:
        last.plot(at, size(at), color=plotting.INK, ls=(0, (4, 3)), label="true")
    last.set_ylim(bottom=0)
    dress(last, "Standard deviation of the noise", "x", "y")
    figure.savefig(file, dpi=120)
    print(file)


def main(arguments: list[str] | None = None) -> None:
    """Fit, print and draw."""
    parser = argparse.ArgumentParser(description="Noise that depends on the inputs.")
    parser.add_argument("--data", type=Path, help="folder that holds sci_mcycle.npz")
    parser.add_argument("--folds", type=int, default=10, help="folds that judge the data")
    parser.add_argument("--rows", type=int, default=250, help="rows of the formula")
    parser.add_argument("--warp", action="store_true", help="let held-out rows choose a warp")
    parser.add_argument("--max-iter", type=int, default=160, help="iterations of each fit")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    options = {"max_iter": chosen.max_iter} | ({} if chosen.warp else {"nu": np.inf})
    if chosen.data is None:
        X, y = table(chosen.rows, seed=0)
        new = table(3000, seed=1)
    else:
        with np.load(chosen.data / "sci_mcycle.npz", allow_pickle=False) as data:
            X, y = data["X"].astype(float), data["y"].astype(float)
    fitted = {}
    for name, model in models(options).items():
        if chosen.data is None:
            fitted[name] = model.fit(X, y)
            judge(name, model.pit(*new), model.log_predictive_density(*new), new[0])
        else:
            judge(name, *cross_validate(model, X, y, chosen.folds), X)
            fitted[name] = model.fit(X, y)
    draw(fitted, X, y, chosen.data is None, chosen.out / "varying_noise.png")


if __name__ == "__main__":
    main()
