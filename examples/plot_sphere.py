r"""The sphere: do directions gather about an axis, or about the plane across it?

.. code-block:: console

    $ python examples/plot_sphere.py --out figures

Each row holds twelve points of the unit sphere, as of the axes of crystals in a rock: a cluster or
a girdle, about an axis that may point anywhere. The points are a set, as in the example of sets,
and the read-out averages over SO(3) by quadrature. That is invariance up to the degree of the
quadrature, and the printed figures say how far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ideareg import REMClassifier, plotting
from ideareg.kernels import groups, rotations

POINTS = 12
SPREAD = 0.45


def directions(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the sphere as rows, and whether they are a girdle."""
    random = np.random.default_rng(seed)
    girdle = random.integers(2, size=rows)
    slope = SPREAD * random.normal(size=(rows, POINTS))
    height = np.where(girdle[:, None], np.sin(slope), np.cos(slope))
    height *= random.choice([-1, 1], size=height.shape)  # a direction and its opposite are one axis
    angle = random.uniform(0, 2 * np.pi, height.shape)
    width = np.sqrt(1 - height**2)
    places = np.stack([width * np.cos(angle), width * np.sin(angle), height], axis=2)
    turns = Rotation.random(rows, random_state=seed).as_matrix()
    return np.einsum("nij,nkj->nki", turns, places).reshape(rows, -1), girdle


def machine(degree: int) -> REMClassifier:
    """Return the machine, averaged over SO(3) to a degree; 0 for not at all."""
    turns = rotations.haar_so3(degree) if degree else None
    return REMClassifier(space=groups.cyclic(POINTS), n_patches=(48,), window=(1,),
                         sharpness=(1.0,), group=turns, random_state=0)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Fit without the group and with quadratures of it, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Directions under rotations of space.")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--rows", type=int, default=40, help="rows to fit")
    parser.add_argument("--degrees", type=int, nargs="+", default=[0, 2, 4, 6])
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    X, y = directions(chosen.rows, seed=0)
    Z, truth = directions(500, seed=1)
    turn = Rotation.random(random_state=3).as_matrix()
    turned = (Z.reshape(-1, 3) @ turn.T).reshape(Z.shape)

    errors, changes = [], []
    for degree in chosen.degrees:
        model = machine(degree).fit(X, y)
        P = model.predict_proba(Z)[:, 1]
        changes.append(np.abs(model.predict_proba(turned)[:, 1] - P).max())
        errors.append(100 * ((P > 0.5) != truth).mean())
        count = len(rotations.haar_so3(degree).weights) if degree else 1
        print(
            f"degree {degree}, {count} rotations: error {errors[-1]:.1f} %, "
            f"a rotation changes probabilities by {changes[-1]:.1e} at most"
        )

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left = figure.add_subplot(121, projection="3d")
    for kind, name, colour in ((0, "cluster", plotting.BLUE), (1, "girdle", plotting.ORANGE)):
        left.scatter(*X[y == kind][0].reshape(-1, 3).T, color=colour, label=name)
    left.legend(frameon=False, fontsize=8)
    right = figure.add_subplot(122)
    right.plot(chosen.degrees, errors, "o-", label="test error, %")
    right.plot(chosen.degrees, 100 * np.array(changes), "s--", label="change under a rotation, %")
    right.set(xlabel="degree of the quadrature, 0 for no group", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    file = chosen.out / "sphere.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
