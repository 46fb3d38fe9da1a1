r"""A population of leaves: their mean, how they differ, and one growth told to another.

.. code-block:: console

    $ python examples/plot_population.py --out figures

Leaves differ by how much they are bent and how much they swell, two numbers that are drawn at
random and not told. The atlas finds a mean leaf and two principal geodesics. Then the growth of one
leaf is carried to another, by parallel transport along the geodesic between them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from ideareg import Hamiltonian, Registration, State, get_integrator, plotting, shoot
from ideareg.registration import Atlas, Modes, atlas, parallel_transport, procrustes
from ideareg.viewer import write_viewer


def leaf(count: int, bend: float, swell: float) -> np.ndarray:
    """Return points of the outline, shape (count, 2)."""
    t = 2 * np.pi * np.arange(count) / count
    x = 1.5 * np.cos(t)
    y = (0.6 + swell * np.cos(t)) * np.sin(t) * (1.2 + 0.3 * np.cos(3 * t))
    return np.stack([x, y + bend * x**2], axis=1)


def draw(found: Atlas, modes: Modes, hidden: np.ndarray, shapes: np.ndarray, file: Path) -> None:
    """Draw all leaves with their mean, the two modes, and the scores beside what was hidden."""
    from matplotlib.figure import Figure

    def outline(ax, points, **style):
        ax.plot(*np.concatenate([points, points[:1]]).T, **style)

    figure = Figure(figsize=(14, 3.6), layout="constrained")
    first, second, third, last = figure.subplots(1, 4)
    for shape in shapes:
        outline(first, shape, color=plotting.FAINT, lw=0.7)
    for k, ax in enumerate((second, third)):
        for sigma, colour in ((-2, plotting.BLUE), (2, plotting.ORANGE)):
            scores = np.zeros(2)
            scores[k] = sigma * modes.deviation[k]
            outline(ax, modes.shape_at(scores).points, color=colour, label=f"{sigma:+d} deviations")
        ax.set_title(f"mode {k + 1}: {100 * modes.explained[k]:.1f} %", loc="left")
        ax.legend(frameon=False, fontsize=8)
    for ax in (first, second, third):
        outline(ax, found.template.points, color=plotting.INK)
        ax.set_aspect("equal")
    first.set_title("leaves and their mean", loc="left")
    shown = last.scatter(*modes.scores[:, :2].T, c=hidden[:, 0], cmap="PuOr")
    figure.colorbar(shown, ax=last, label="bend")
    last.set_title("scores", loc="left")
    figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Find the atlas, print and draw."""
    parser = argparse.ArgumentParser(description="A population of leaves.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figures")
    parser.add_argument("--leaves", type=int, default=24, help="number of leaves")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)

    hidden = np.random.default_rng(0).normal(size=(chosen.leaves, 2)) * [0.15, 0.12]
    shapes = procrustes([leaf(16, *numbers) for numbers in hidden])
    settings = Registration(1.0, nu=0.0)
    found = atlas(shapes, settings)
    modes = found.modes(2)
    print(f"converged: {found.converged}; mean momentum {found.gap:.1e} of the distances")
    print(f"explained by two modes: {modes.explained.sum():.1%}")
    columns = np.c_[np.ones(len(hidden)), hidden]
    fitted = columns @ np.linalg.lstsq(columns, modes.scores, rcond=None)[0]
    rest = ((modes.scores - fitted) ** 2).sum(0) / (modes.scores**2).sum(0)
    print("scores explained by bend and swell:", ", ".join(f"{1 - r:.1%}" for r in rest))

    # The first leaf swells. What would the second do, were it to grow alike?
    grown = Registration(1.0, nu=0.0).fit(shapes[0], shapes[0] * [1.0, 1.3])
    between = Registration(1.0, nu=0.0).fit(shapes[0], shapes[1])
    momentum = parallel_transport(between, grown.momentum_)
    with jax.enable_x64(True):
        ham, start = Hamiltonian(grown.kernel_), State(shapes[1], momentum)
        alike = shoot(ham, start, 10, get_integrator("rk4"))
    length = np.sqrt(2 * float(alike.energies[0]))
    print(f"length of the growth: {grown.distance_:.5f}, carried along: {length:.5f}")
    wider = np.ptp(alike.final.q, axis=0) / np.ptp(shapes[1], axis=0)
    print(f"the second leaf gets {wider[0]:.2f} times as long and {wider[1]:.2f} times as wide")

    draw(found, modes, hidden, shapes, chosen.out / "population.png")
    page = chosen.out / "population.html"
    write_viewer(page, found.fits[0], shapes[0], title="From the mean leaf to the first")
    print(page)


if __name__ == "__main__":
    main()
