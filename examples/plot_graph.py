r"""Signals on a graph: are the two warm nodes neighbours?

.. code-block:: console

    $ python examples/plot_graph.py --out figures

Each row is a signal on the ten nodes of Petersen's graph: noise, and two nodes that are warm. The
answer is the same for signals that an automorphism of the graph carries to each other, all 120 of
them, so the machine that has them for its space sees a node and its neighbours from everywhere, and
has to learn two cases. With the trivial group it has to learn 45.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ideareg import REMClassifier, plotting
from ideareg.kernels import graphs, groups

NOISE = 0.2


def petersen() -> np.ndarray:
    """Return the adjacency matrix: five nodes on a ring, five on a star, a spoke for each pair."""
    A = np.zeros((10, 10), dtype=int)
    i = np.arange(5)
    for left, right in ((i, (i + 1) % 5), (i, i + 5), (5 + i, 5 + (i + 2) % 5)):
        A[left, right] = A[right, left] = 1
    return A


def signals(A: np.ndarray, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals with two warm nodes, neighbours in half of the rows, and whether they are."""
    random = np.random.default_rng(seed)
    X, near = NOISE * random.normal(size=(rows, 10)), random.integers(2, size=rows)
    for row, adjacent in zip(X, near, strict=True):
        pairs = np.argwhere(np.triu(adjacent == A, 1))
        row[pairs[random.integers(len(pairs))]] += 1
    return X, near


def machine(A: np.ndarray, invariant: bool) -> REMClassifier:
    """Return the machine, with the automorphisms of the graph or without."""
    space = graphs.automorphisms(A) if invariant else groups.Group([range(len(A))])
    window = [0, *np.flatnonzero(A[0])] if invariant else None
    return REMClassifier(space=space, n_patches=(64,), window=(window,), sharpness=(3.0,),
                         random_state=0)  # fmt: skip


def draw(ax: object, A: np.ndarray, signal: np.ndarray) -> None:
    """Draw the graph, its nodes coloured by a signal."""
    angle = np.pi / 2 + 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    places = np.concatenate([ring, 0.5 * ring])
    for i, j in np.argwhere(np.triu(A)):
        ax.plot(*places[[i, j]].T, color=plotting.FAINT, lw=1, zorder=0)
    ax.scatter(*places.T, c=signal, cmap="coolwarm", vmin=-1, vmax=1, s=120, edgecolor="k")
    ax.set_axis_off()
    ax.set_aspect("equal")


def main(arguments: list[str] | None = None) -> None:
    """Fit with more and more rows, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Signals on a graph.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--rows", type=int, nargs="+", default=[20, 60, 180], help="rows to fit")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    A = petersen()
    print(graphs.automorphisms(A))
    X, y = signals(A, max(chosen.rows), seed=0)
    Z, truth = signals(A, 500, seed=1)

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, A, X[np.argmax(y)])
    for invariant, name in ((False, "without the group"), (True, "automorphisms")):
        errors = []
        for rows in chosen.rows:
            model = machine(A, invariant).fit(X[:rows], y[:rows])
            errors.append(100 * (1 - model.score(Z, truth)))
            print(f"{name}, {rows} rows: error {errors[-1]:.1f} %")
        right.plot(chosen.rows, errors, "o-", label=name)
    right.set(xscale="log", xlabel="rows to fit", ylabel="test error, %", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    file = chosen.out / "graph.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
