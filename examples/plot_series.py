r"""Periodic series: the shape of a wave, whatever its phase.

.. code-block:: console

    $ python examples/plot_series.py --out figures

Each row is one period of a noisy wave of one of three shapes, begun at a random phase. The machine
is the same twice: with the rotations of the circle as its space, where it sees five neighbouring
points from everywhere and averages, and with the trivial group, where it sees the row as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ideareg import REMClassifier, plotting
from ideareg.kernels import groups

POINTS = 24
NOISE = 0.3


def waves(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy waves that rise slowly, rise fast, or have two humps, and which they are."""
    random = np.random.default_rng(seed)
    phase, shape = random.uniform(0, 2 * np.pi, rows), random.integers(3, size=rows)
    t = 2 * np.pi * np.arange(POINTS) / POINTS + phase[:, None]
    second = np.choose(shape[:, None], [np.sin(2 * t), -np.sin(2 * t), np.cos(2 * t)])
    return np.sin(t) + 0.5 * second + NOISE * random.normal(size=t.shape), shape


def machine(invariant: bool) -> REMClassifier:
    """Return the machine, with the rotations of the circle or without."""
    if invariant:
        circle = groups.cyclic(POINTS)
        return REMClassifier(space=circle, n_patches=(32, 64), window=(5, 3), random_state=0)
    row = groups.Group([range(POINTS)])
    return REMClassifier(space=row, n_patches=(64,), window=(None,), sharpness=(3.0,),
                         random_state=0)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Fit with more and more rows, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Periodic series at any phase.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[30, 100, 300], help="rows to fit")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    X, y = waves(max(chosen.rows), seed=0)
    Z, truth = waves(500, seed=1)

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for shape, colour in enumerate(plotting.SERIES[:3]):
        left.plot(X[y == shape][:2].T, color=colour, lw=0.8)
    left.set(xlabel="point", title="two waves of each shape")
    for invariant, name in ((False, "without the group"), (True, "rotations of the circle")):
        errors = []
        for rows in chosen.rows:
            model = machine(invariant).fit(X[:rows], y[:rows])
            errors.append(100 * (1 - model.score(Z, truth)))
            print(f"{name}, {rows} rows: error {errors[-1]:.1f} %")
        right.plot(chosen.rows, errors, "o-", label=name)
        change = np.abs(model.predict_proba(np.roll(Z, 7, axis=1)) - model.predict_proba(Z)).max()
        print(f"{name}: a shift by 7 points changes probabilities by {change:.1e} at most")
    right.set(xscale="log", xlabel="rows to fit", ylabel="test error, %", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    file = chosen.out / "series.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
