r"""Is the Laplace approximation good enough? Its standard deviations beside those of NUTS.

.. code-block:: console

    $ python examples/plot_laplace.py --data DIR --out figures

DIR holds ``uci_yacht.npz`` and ``sci_mcycle.npz``. One warp is fitted to each; then its momentum
is drawn from its posterior, all else as fitted. The number per set is the mean distance of the
ratio of the two predictive standard deviations from 1, at the rows of the first test split, or on a
grid where there is one input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ideareg import WarpingRegressor, plotting, sample_posterior

SETS = {"mcycle": "sci_mcycle", "yacht": "uci_yacht"}


def load(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs and targets to fit, and points to predict at."""
    with np.load(folder / f"{SETS[name]}.npz", allow_pickle=False) as file:
        X, y = file["X"].astype(float), file["y"].astype(float)
        if X.shape[1] == 1:
            return X, y, np.linspace(X.min(), X.max(), 100)[:, None]
        test = file["test_mask"][0].astype(bool)
    return X[~test], y[~test], X[test]


def compare(
    X: np.ndarray, y: np.ndarray, at: np.ndarray, options: dict[str, Any], chains: dict[str, int]
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the draws, and the standard deviations by Laplace and by NUTS."""
    model = WarpingRegressor(random_state=0, **options).fit(X, y)
    samples = sample_posterior(model, X, y, **chains)
    by_laplace = model.predict(at, return_std=True)[1]
    return samples.draws_, by_laplace, samples.predict(at, return_std=True)[1]


def main(arguments: list[str] | None = None) -> None:
    """Fit, sample, compare, print and draw."""
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description="Laplace against NUTS.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the .npz files")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--sets", default="mcycle,yacht")
    parser.add_argument("--nu", type=float, default=5.0)
    parser.add_argument("--max-iter", type=int, default=160, help="iterations of each fit")
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--samples", type=int, default=100, help="draws of each chain")
    parser.add_argument("--chains", type=int, default=2)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    names = chosen.sets.split(",")
    options = {"nu": chosen.nu, "max_iter": chosen.max_iter}
    counts = (chosen.warmup, chosen.samples, chosen.chains)
    chains = dict(zip(("n_warmup", "n_samples", "n_chains"), counts, strict=True))

    figure = Figure(figsize=(4.2 * len(names), 3.8), layout="constrained")
    for name, ax in zip(names, np.ravel(figure.subplots(1, len(names))), strict=True):
        draws, laplace, nuts = compare(*load(chosen.data, name), options, chains)
        off = np.abs(laplace / nuts - 1).mean()
        print(
            f"{name}: Laplace over NUTS {np.mean(laplace / nuts):.3f} on average, "
            f"off by {100 * off:.1f} %; acceptance {draws.acceptance.mean():.2f}, "
            f"divergences {draws.divergences}, median R-hat {np.median(draws.rhat):.3f}, "
            f"largest {draws.rhat.max():.3f}, median effective draws {np.median(draws.ess):.0f}"
        )
        ax.plot(nuts, laplace, "o", ms=3, color=plotting.BLUE)
        ax.axline((nuts.min(), nuts.min()), slope=1, color=plotting.INK, lw=0.8)
        ax.set(title=f"{name}: off by {100 * off:.1f} %", xlabel="std by NUTS", ylabel="by Laplace")
    file = chosen.out / "laplace.png"
    figure.savefig(file, dpi=120)
    print(file)


if __name__ == "__main__":
    main()
