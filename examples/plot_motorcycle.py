r"""The motorcycle data: calm, then a crash; and what is said of times that nobody measured.

.. code-block:: console

    $ python examples/plot_motorcycle.py --data DIR --out figures

DIR holds ``sci_mcycle.npz``: X, milliseconds after the impact, and y, the acceleration of the head
in g (Silverman 1985). One model sees all rows, the other none of a stretch in the middle. Held-out
rows decide whether to warp; of a stack the heaviest warp that moves points is drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ideareg import WarpingRegressor, plotting
from ideareg.plotting.style import dress

TITLE, FILE, GAP = "Motorcycle crash", "sci_mcycle", (26.0, 34.0)
NAMES = ("time after the impact, ms", "acceleration, g")


def study(
    X: np.ndarray, y: np.ndarray, gap: tuple[float, float], options: dict[str, Any]
) -> tuple[Any, Any, np.ndarray]:
    """Fit all rows, and those outside the gap; return both models and the rows outside."""
    outside = (X[:, 0] < gap[0]) | (X[:, 0] > gap[1])
    whole = WarpingRegressor(random_state=0, **options).fit(X, y)
    return whole, WarpingRegressor(random_state=0, **options).fit(X[outside], y[outside]), outside


def report(whole: Any, holed: Any, X: np.ndarray, y: np.ndarray, outside: np.ndarray) -> None:
    """Print the stacks that held-out rows chose, and what they say of the rows in the gap."""
    for name, model in (("all rows", whole), ("without the gap", holed)):
        stack = ", ".join(f"ν = {w.nu:g} ({100 * w.weight:.0f} %)" for w in model.warps_)
        inside = ~outside
        std = model.predict(X[inside], return_std=True)[1].mean()
        held = np.mean(np.abs(2 * model.pit(X[inside], y[inside]) - 1) <= 0.9)
        density = model.log_predictive_density(X[inside], y[inside]).mean()
        print(
            f"{name}: {stack}; in the gap std {std:.3g}, log-likelihood {density:.3g}, "
            f"90 % intervals hold {100 * held:.0f} %"
        )


def draw(
    whole: Any, holed: Any, X: np.ndarray, y: np.ndarray, outside: np.ndarray,
    gap: tuple[float, float], text: tuple[str, tuple[str, str]], file: Path,
) -> None:  # fmt: skip
    """Draw both models, the warps, and the standard deviations."""
    from matplotlib.figure import Figure

    title, names = text
    figure = Figure(figsize=(10, 7), layout="constrained")
    (one, other), (warp, spread) = figure.subplots(2, 2)
    reach = plotting.predictive(whole, X, y, ax=one).get_xlim()
    plotting.predictive(holed, X[outside], y[outside], reach=reach, ax=other)
    other.plot(X[~outside], y[~outside], "x", color=plotting.INK, ms=4, label="held out")
    at = np.linspace(*reach, 300)[:, None]
    styles = ((whole, "all rows", plotting.BLUE), (holed, "without the gap", plotting.ORANGE))
    for model, label, colour in styles:
        spread.plot(at, model.predict(at, return_std=True)[1], color=colour, label=label)
        warp.plot(at, plotting.moving(model).transform(at), color=colour, label=label)
    warp.plot(at, at, color=plotting.INK, lw=0.8, ls=(0, (4, 3)), label="no warp")
    spread.set_ylim(bottom=0)
    dress(warp, "The warp, where held-out rows chose one", names[0], "warped")
    dress(spread, "Standard deviation of an observation", *names)
    dress(one, f"{title}: all rows", *names)
    dress(other, "Without the rows in the gap", *names)
    ends = np.array([one.get_ylim(), other.get_ylim()])
    for ax in (one, other):
        ax.set_ylim(ends.min(), ends.max())
    for ax in (other, spread):
        ax.axvspan(*gap, color=plotting.FAINT, alpha=0.25, lw=0, zorder=0)
    figure.savefig(file, dpi=120)
    print(file)


def main(arguments: list[str] | None = None) -> None:
    """Fit, print and draw."""
    run(arguments, TITLE, FILE, GAP, NAMES)


def run(
    arguments: list[str] | None, title: str, name: str, gap: tuple[float, float],
    names: tuple[str, str],
) -> None:  # fmt: skip
    """Do the same for any table of one input."""
    parser = argparse.ArgumentParser(description=f"{title}: what is known where nothing was seen.")
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {name}.npz")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--max-iter", type=int, default=160, help="iterations of each fit")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with np.load(chosen.data / f"{name}.npz", allow_pickle=False) as data:
        X, y = data["X"].astype(float), data["y"].astype(float)
    whole, holed, outside = study(X, y, gap, {"max_iter": chosen.max_iter, "power": False})
    report(whole, holed, X, y, outside)
    file = chosen.out / f"{name.removeprefix('sci_')}.png"
    draw(whole, holed, X, y, outside, gap, (title, names), file)


if __name__ == "__main__":
    main()
