r"""Sets: how two coordinates hang together in a cloud of points, in whatever order they come.

.. code-block:: console

    $ python examples/plot_sets.py --out figures

Each row holds a cloud of twenty points of the plane, drawn from a normal law; the target is its
correlation. The machine whose window is one point sees the points one by one and averages: its
features are the mean embedding of the cloud, and what follows is the kernel form of a network on
sets. No order of the points is left, though the space only says how they are brought to each other.
With the trivial group the machine sees forty columns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ideareg import REMRegressor, plotting
from ideareg.kernels import groups

POINTS = 20


def clouds(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds as rows, the two coordinates of each point together, and correlations."""
    random = np.random.default_rng(seed)
    rho = random.uniform(-0.95, 0.95, rows)
    x, z = random.normal(size=(2, rows, POINTS))
    y = rho[:, None] * x + np.sqrt(1 - rho[:, None] ** 2) * z
    return np.stack([x, y], axis=2).reshape(rows, -1), rho


def machine(invariant: bool) -> REMRegressor:
    """Return the machine, on sets or on columns."""
    space = groups.cyclic(POINTS) if invariant else groups.Group([range(POINTS)])
    window = 1 if invariant else None
    return REMRegressor(space=space, n_patches=(64,), window=(window,), sharpness=(2.0,),
                        random_state=0)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Fit with more and more rows, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="The correlation of clouds of points.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 150, 450], help="rows to fit")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    X, y = clouds(max(chosen.rows), seed=0)
    Z, truth = clouds(500, seed=1)
    order = np.random.default_rng(2).permutation(POINTS)
    shuffled = Z.reshape(-1, POINTS, 2)[:, order].reshape(Z.shape)

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for invariant, name in ((False, "without the group"), (True, "sets")):
        errors = []
        for rows in chosen.rows:
            model = machine(invariant).fit(X[:rows], y[:rows])
            errors.append(np.sqrt(((model.predict(Z) - truth) ** 2).mean()))
            print(f"{name}, {rows} rows: root mean square error {errors[-1]:.3f}")
        right.plot(chosen.rows, errors, "o-", label=name)
        change = np.abs(model.predict(shuffled) - model.predict(Z)).max()
        print(f"{name}: another order of the points changes predictions by {change:.1e} at most")
    mean, std = model.predict(Z, return_std=True)
    left.errorbar(truth[::10], mean[::10], 2 * std[::10], fmt=".", lw=0.8)
    left.axline((0, 0), slope=1, color=plotting.FAINT, lw=0.8)
    left.set(xlabel="correlation", ylabel="prediction, two standard deviations")
    right.set(xscale="log", xlabel="rows to fit", ylabel="error of the correlation", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    file = chosen.out / "sets.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
