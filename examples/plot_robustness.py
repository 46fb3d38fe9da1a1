r"""How far an input can move before a prediction does: certificate, attack, and the nugget.

.. code-block:: console

    $ python examples/plot_robustness.py --out figures

Certified radii follow from norms and gradients, without a search; a gradient attack searches for
the nearest row whose prediction differs by more than the tolerance. The truth lies between. The
second figure shows what a nugget does to the error on held-out rows, the action, and the certified
Lipschitz constant.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

from ideareg import WarpingRegressor, nugget_path, plotting

TOLERANCES = (0.02, 0.1, 0.5)  # in standard deviations of the target
NUGGETS = (0.0, 0.01, 0.1, 1.0)


def main(arguments: list[str] | None = None) -> None:
    """Fit, certify, attack, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Certified radii and the nugget path.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--rows", type=int, default=300, help="rows to fit")
    parser.add_argument("--max-iter", type=int, default=60, help="iterations of each fit")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    X, y = load_diabetes(return_X_y=True)
    at, X, y = X[-40:], X[: chosen.rows], y[: chosen.rows]

    model = WarpingRegressor(nu=5.0, max_iter=chosen.max_iter, random_state=0)
    model.fit(X, y)
    print(f"Lipschitz constant of the predictions, per standardised unit: {model.lipschitz_:.4g}")
    print(f"added to diagonals: {model.nugget_used_}")

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for tolerance in TOLERANCES:
        pair = [
            radius(at, tolerance * y.std(), units="standardized")
            for radius in (model.certified_radius, model.attacked_radius)
        ]
        share = pair[0] / pair[1]
        beaten = int((share > 1).sum())
        print(
            f"tolerance {tolerance:g} sd: certified / attacked {share.min():.3f} to "
            f"{share.max():.3f}, median {np.median(share):.3f}; attacks that beat it: {beaten}"
        )
        left.plot(*pair[::-1], ".", label=f"tolerance {tolerance:g} sd")
    left.axline((1, 1), slope=1, color=plotting.FAINT, lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="attacked radius", ylabel="certified radius")
    left.legend(frameon=False, fontsize=8)

    path = nugget_path(model, X, y, NUGGETS)
    for row in zip(*path.values(), strict=True):
        print("  ".join(f"{name} {value:.4g}" for name, value in zip(path, row, strict=True)))
    plotting.nugget_path(path, ax=right)
    file = chosen.out / "robustness.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
