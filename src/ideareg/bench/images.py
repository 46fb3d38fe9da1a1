"""The image benchmark: the default machine of REM kernels beside peers, with all labels or few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import SVC

from ideareg.bench.convnet import ConvNet
from ideareg.bench.suite import Case, Column, DataSet, Folder, Suite, Task
from ideareg.estimators.rem import REMClassifier

# Draws of a set with few labels, and folds of a set without a test set of its own.
SPLITS = 5
LARGEST_PEER = 15_000  # rows; the peers take hours beyond
ROTATED_ROWS, ROTATED_TEST = 12_000, 10_000


class Images(Suite):
    """Sets with their own files: images (n, h, w) or (n, h, w, 3), of type uint8.

    A file has ``X_train, y_train, X_test, y_test``, or ``X, y`` with or without the ``test_mask``
    (n,) of one split. In the names of sets, ``-1000`` takes 1000 training rows, and "rotated" is
    made of another set's images.
    """

    def load(self, folder: Folder, name: str) -> DataSet:
        """Read one data set; rows are flattened images, in uint8.

        Raises
        ------
        ValueError
            For an unknown name, or a file that does not hold the arrays.
        FileNotFoundError
            If the file is not there.
        """
        with self.opened(folder, name, "a file of images and labels") as file:
            X, y, test = _arrays(file)
        if name == "rotated":
            X, y, test = _rotated(X, y, test[0])
        few = name.rpartition("-")[2]
        train = _draws(~test[0], int(few)) if few.isdigit() else None
        if train is not None:
            test = np.repeat(test, SPLITS, axis=0)
        return DataSet(X.reshape(len(X), -1), y, test, train)

    def plan(
        self,
        folder: Folder,
        sets: Sequence[str],
        splits: Sequence[int] | None,
        methods: Sequence[str],
    ) -> list[Task]:
        """List the fits to run, see `Suite.plan`; "turns" is for the turned images alone."""
        tasks = super().plan(folder, sets, splits, methods)
        return [task for task in tasks if task.method != "turns" or task.set == "rotated"]


def _arrays(file: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images, labels and the test rows of each split."""
    test: Any
    if "X_train" in file:
        X = np.concatenate([file["X_train"], file["X_test"]])
        y = np.concatenate([file["y_train"], file["y_test"]])
        test = np.arange(len(y)) >= len(file["y_train"])
    else:
        X, y, test = file["X"], file["y"], file.get("test_mask")
    if X.ndim not in (3, 4) or y.shape != X.shape[:1]:
        raise ValueError(f"X {X.shape} and y {y.shape} are not images and their labels")
    if test is None:
        fold = np.random.default_rng(0).permutation(np.arange(len(y)) % SPLITS)
        return X, y, fold == np.arange(SPLITS)[:, None]
    return X, y, test[None]


def _draws(train: np.ndarray, count: int) -> np.ndarray:
    """Return masks of ``count`` training rows, drawn with the number of the split as seed."""
    rows = np.flatnonzero(train)
    masks = np.zeros((SPLITS, len(train)), dtype=bool)
    for split in range(SPLITS):
        masks[split, np.random.default_rng(split).permutation(rows)[:count]] = True
    return masks


def _rotated(
    X: np.ndarray, y: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the first images by uniform angles, with seed 0."""
    rows = np.concatenate(
        [np.flatnonzero(~test)[:ROTATED_ROWS], np.flatnonzero(test)[:ROTATED_TEST]]
    )
    angles = np.random.default_rng(0).uniform(0, 360, len(rows))
    turned = [
        ndimage.rotate(image, angle, reshape=False, order=1)
        for image, angle in zip(X[rows], angles, strict=True)
    ]
    return np.stack(turned), y[rows], test[rows][None]


def _shape(columns: int) -> tuple[int, int, int]:
    """Return the shape of a square image, grey or of three colours, from its number of entries."""
    side = round((columns / 3) ** 0.5)
    if 3 * side**2 == columns:
        return side, side, 3
    side = round(columns**0.5)
    return side, side, 1


def _rem(case: Case, **options: Any) -> REMClassifier:
    return REMClassifier(_shape(case.X.shape[1]), random_state=0, **options)


def _svc(case: Case) -> Any:
    machine = CalibratedClassifierCV(SVC(C=10.0, random_state=0), cv=3, ensemble=False)
    return make_pipeline(MaxAbsScaler(), machine)


def _cnn(case: Case) -> ConvNet:
    assert case.seconds is not None
    return ConvNet(_shape(case.X.shape[1]), case.seconds)


METHODS: dict[str, Callable[[Case], Any]] = {
    "ideareg": _rem,
    "turns": partial(_rem, group="c8"),
    "cnn": _cnn,
    "svc": _svc,
    "boosting": lambda case: HistGradientBoostingClassifier(random_state=0),
}


def score(case: Case, task: Task) -> dict[str, float]:
    """Return ``error`` and ``log_loss`` on the test rows."""
    model = METHODS[task.method](case).fit(case.X, case.y)
    P, classes = model.predict_proba(case.X_test), model.classes_
    return {
        "error": float((classes[P.argmax(1)] != case.y_test).mean()),
        "log_loss": float(log_loss(case.y_test, P, labels=classes)),
    }


IMAGES = Images(
    sets={
        "digits": "img_digits8x8",
        "mnist-300": "img_mnist",
        "mnist-1000": "img_mnist",
        "mnist-5000": "img_mnist",
        "mnist": "img_mnist",
        "rotated": "img_mnist",
        "fashion-300": "img_fashion_mnist",
        "fashion-1000": "img_fashion_mnist",
        "fashion-5000": "img_fashion_mnist",
        "fashion": "img_fashion_mnist",
        "cifar10": "img_cifar10_4k",
    },
    methods=tuple(METHODS),
    columns=(Column("error", "error", 0), Column("log_loss", "log-loss", 3)),
    score=score,
    largest={"svc": LARGEST_PEER, "boosting": LARGEST_PEER},
    needs={"cnn": "torch"},
    paced=("cnn",),
)
