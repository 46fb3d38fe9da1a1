r"""One shape into another: with landmarks that correspond, and as curves whose points do not.

.. code-block:: console

    $ python examples/plot_landmarks.py --out figures

A leaf is bent and swollen. Its landmarks are matched exactly, after a rotation in closed form; then
the same outlines are registered again as curves, one of them cut into other points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ideareg import Registration, plotting


def leaf(count: int, bend: float = 0.0, swell: float = 0.0, turn: float = 0.0) -> np.ndarray:
    """Return points of the outline, shape (count, 2)."""
    t = 2 * np.pi * np.arange(count) / count
    x, y = 1.5 * np.cos(t), (0.6 + swell * np.cos(t)) * np.sin(t) * (1.2 + 0.3 * np.cos(3 * t))
    y = y + bend * x**2
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([c * x - s * y, s * x + c * y], axis=1)


def ring(count: int) -> np.ndarray:
    """Return the edges that close a curve, shape (count, 2)."""
    return np.stack([np.arange(count), (np.arange(count) + 1) % count], axis=1)


def main(arguments: list[str] | None = None) -> None:
    """Register, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Landmarks and curves.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figures")
    parser.add_argument("--landmarks", type=int, default=16, help="number of landmarks")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    n = chosen.landmarks

    source, target = leaf(n), leaf(n, bend=0.25, swell=0.25, turn=0.5)
    points = Registration(nu=0.0, align="rigid").fit(source, target)
    error = np.abs(points.transform_points(source) - target).max()
    print(f"landmarks: distance {points.distance_:.4f}, largest error {error:.1e}")
    print(f"converged: {points.converged_}, energy drift {points.energy_drift_:.1e}")

    outline = (leaf(4 * n, turn=0.5), ring(4 * n))
    goal = (leaf(5 * n, bend=0.25, swell=0.25, turn=0.5), ring(5 * n))
    curves = Registration(nu=1e-3, depth=6).fit(outline, goal)
    print(f"curves: {curves.residual_:.2%} of the mismatch left, distance {curves.distance_:.4f}")

    figure = Figure(figsize=(14, 7), layout="constrained")
    for row, (fit, at) in zip(
        figure.subplots(2, 4), ((points, target), (curves, goal)), strict=True
    ):
        plotting.before_after(fit, at, ax=row[0])
        plotting.trajectories(fit, ax=row[1])
        plotting.deformed_grid(fit, ax=row[2])
        plotting.jacobian_map(fit, ax=row[3])
    file = chosen.out / "landmarks.png"
    figure.savefig(file, dpi=110)
    print(file)


if __name__ == "__main__":
    main()
