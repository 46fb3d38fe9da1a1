"""The classification benchmark: the default classifier beside a tuned support vector machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ideareg.bench.suite import Case, Column, Suite, Task
from ideareg.estimators.classifier import WarpingClassifier

# The machine is tuned on no more rows than the classifier selects on.
TUNED_ROWS = 5000
COSTS = (0.1, 1.0, 10.0, 100.0, 1000.0)
WIDTHS = tuple(float(2.0**e) for e in range(-5, 4, 2))  # gamma, in units of 1 / columns


class PlattSVC:
    """An RBF machine tuned over 5 x 5 values by 5 folds, with Platt's probabilities."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> PlattSVC:
        """Tune, calibrate on 5 folds, and fit."""
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        grid = {"svc__C": COSTS, "svc__gamma": [g / X.shape[1] for g in WIDTHS]}
        machine = make_pipeline(StandardScaler(), SVC(random_state=0))
        chosen = np.random.default_rng(0).permutation(len(y))[:TUNED_ROWS]
        search = GridSearchCV(machine, grid, cv=folds, refit=False).fit(X[chosen], y[chosen])
        self.machine = machine.set_params(**search.best_params_).fit(X, y)
        self.calibrated = CalibratedClassifierCV(
            machine, method="sigmoid", cv=folds, ensemble=False
        ).fit(X, y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the decisions of the machine itself, which Platt's probabilities may differ from.

        See scikit-learn's guide: they come from other folds.
        """
        return np.asarray(self.machine.predict(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return Platt's probabilities."""
        return np.asarray(self.calibrated.predict_proba(X))


METHODS: dict[str, Callable[[], Any]] = {
    "ideareg": lambda: WarpingClassifier(random_state=0),
    "no warp": lambda: WarpingClassifier(random_state=0, nu=math.inf),
    "svc": PlattSVC,
}


def score(case: Case, task: Task) -> dict[str, float]:
    """Return ``accuracy`` and ``log_loss`` on the test rows."""
    model = METHODS[task.method]().fit(case.X, case.y)
    classes = np.unique(case.y)
    return {
        "accuracy": float((model.predict(case.X_test) == case.y_test).mean()),
        "log_loss": float(log_loss(case.y_test, model.predict_proba(case.X_test), labels=classes)),
    }


CLASSIFY = Suite(
    sets={
        name: f"cls_{name}"
        for name in (
            "sonar", "ionosphere", "breast_cancer", "pima", "banknote", "segment", "spambase",
            "letter",
        )
    },
    methods=tuple(METHODS),
    columns=(Column("accuracy", "accuracy", 0), Column("log_loss", "log-loss", 3)),
    score=score,
)  # fmt: skip
