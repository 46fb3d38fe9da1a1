"""The UCI regression benchmark: accuracy, honesty and time of one default configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ideareg.bench import peers
from ideareg.bench.suite import Case, Column, Suite, Task
from ideareg.estimators.warping import WarpingRegressor
from ideareg.report import held_out

LARGEST_GP = 2000  # rows; scikit-learn's exact Gaussian process takes hours beyond


def _gaussian_process(d: int) -> Any:
    kernel = ConstantKernel() * RBF(np.ones(d), (1e-2, 1e3)) + WhiteKernel(0.1, (1e-8, 1e1))
    return make_pipeline(
        StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    )


def _sparse_process(d: int) -> Any:
    from ideareg.bench.variational import SparseProcess

    return SparseProcess()


def _deep_process(d: int) -> Any:
    from ideareg.bench.variational import DeepProcess

    return DeepProcess()


METHODS: dict[str, Callable[[int], Any]] = {
    "ideareg": lambda d: WarpingRegressor(random_state=0),
    "head": lambda d: WarpingRegressor(random_state=0, nu=math.inf),
    "sklearn-gp": _gaussian_process,
    "boosting": lambda d: peers.boosting(),
    "forest": lambda d: peers.forest(),
    "mlp": lambda d: peers.network(),
    "xgboost": lambda d: peers.xgboost(),
    "svgp": _sparse_process,
    "deep-gp": _deep_process,
}


def score(case: Case, task: Task) -> dict[str, float]:
    """Return ``rmse``, ``ll``, ``crps`` and ``coverage`` on the test rows.

    The second is the mean log-likelihood, in units of the target as the first and the third; the
    last is the share of targets inside the 90 % interval.
    """
    model = METHODS[task.method](case.X.shape[1]).fit(case.X, case.y)
    found = held_out(model, case.X_test, case.y_test)
    return {
        "rmse": found.rmse,
        "ll": found.ll,
        "crps": float(found.crps.mean()),
        "coverage": found.coverage(),
    }


UCI = Suite(
    sets={
        "yacht": "uci_yacht",
        "boston": "uci_boston",
        "energy": "uci_energy",
        "concrete": "uci_concrete",
        "wine": "uci_wine_red",
        "kin8nm": "uci_kin8nm",
        "power": "uci_power",
        "naval": "uci_naval",
        "protein": "uci_protein",
    },
    methods=tuple(METHODS),
    columns=(
        Column("rmse", "RMSE", 4),
        Column("ll", "log-likelihood", 3),
        Column("crps", "CRPS", 3),
        Column("coverage", "90 % coverage", 0),
    ),
    score=score,
    distinct={"wine-distinct": "uci_wine_red", "protein-distinct": "uci_protein"},
    largest={"sklearn-gp": LARGEST_GP},
    needs={"xgboost": "xgboost", "svgp": "gpytorch", "deep-gp": "gpytorch"},
    # With all of them a run takes several times as long.
    on_request=("boosting", "forest", "mlp", "xgboost", "svgp", "deep-gp"),
)

# Splits that hold out the middle third of one column's range each; boston has none.
UCI_GAP = replace(
    UCI,
    sets={name: file for name, file in UCI.sets.items() if name != "boston"},
    mask="gap_test_mask",
)
