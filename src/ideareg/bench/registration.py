r"""The registration benchmark: pairs of images of different people, beside peers.

A method finds φ⁻¹, places in the source of the target's pixels y; all are scored in the same way:

.. math:: \frac1n\sum_y\bigl(s(\varphi^{-1}(y)) - t(y)\bigr)^2,\qquad
          \min_y\det D\varphi^{-1}(y),\qquad \max_y|\varphi(\varphi^{-1}(y)) - y|

with linear interpolation of the source s, and central differences between pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import permutations
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ideareg import tables
from ideareg.bench.suite import Case, Column, DataSet, Folder, Suite, Task
from ideareg.registration import Image, Registration, align_images
from ideareg.registration.images import determinants

Floats = NDArray[np.float64]

# Of the demons: resolutions, iterations at each, and the width in pixels of the smoothing.
FACTORS, ITERATIONS, SMOOTHING = (8, 4, 2, 1), 100, 1.5
# Of SyN at each resolution by default, which leaves the finest one out, and with it.
DEFAULT_SYN, FINE_SYN = (40, 20, 0), (100, 70, 50)
# The fixed points that invert a demons' field stop here, in pixels.
TOLERANCE = 1e-3


class Found(NamedTuple):
    """What a method found for the pixels of a target.

    Attributes
    ----------
    seconds : float
        Of the search alone.
    places : ndarray, shape (n, d)
        Where they come from in the source.
    returned : ndarray, shape (n, d)
        These places pushed forward again.
    """

    seconds: float
    places: Floats
    returned: Floats


class Pairs(Suite):
    """Sets of images (m, h, w) of one modality; a split is one of the m (m - 1) ordered pairs."""

    def load(self, folder: Folder, name: str) -> DataSet:
        """Read images; the training row of a pair is the source, the test row the target.

        Raises
        ------
        ValueError
            For an unknown name, or a file that does not hold ``images``.
        FileNotFoundError
            If the file is not there.
        """
        with self.opened(folder, name, "a file of images") as file:
            X = file["images"]
            if X.ndim != 3 or len(X) < 2:
                raise ValueError(f"images {X.shape} are not two or more of two axes each")
        pairs = np.array(list(permutations(range(len(X)), 2)))
        chosen = np.eye(len(X), dtype=bool)[pairs]  # (pairs, source or target, image)
        return DataSet(X.astype(float), np.arange(len(X)), chosen[:, 1], chosen[:, 0])


def _ideareg(source: Image, target: Image) -> Found:
    start = time.perf_counter()
    fit = Registration(align="affine").fit(source, target)
    seconds = time.perf_counter() - start
    places = fit.inverse(target.points())
    return Found(seconds, places, fit.transform_points(places))


def _demons(source: Image, target: Image) -> Found:
    """SimpleITK's diffeomorphic demons at four resolutions, after the same affine map as ours."""
    sitk: Any = tables.require("SimpleITK", "bench")
    start = time.perf_counter()
    affine = align_images(source, target, "affine")
    moving = target.with_values(source.at(affine.inverse()(target.points())))
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetStandardDeviations(SMOOTHING)
    field = None
    for factor in FACTORS:
        fixed, image = (_itk(sitk, part.coarser(factor)) for part in (target, moving))
        if field is None:
            field = demons.Execute(fixed, image)
        else:
            start_field = sitk.Resample(field, fixed, useNearestNeighborExtrapolator=True)
            field = demons.Execute(fixed, image, start_field)
    seconds = time.perf_counter() - start
    back = sitk.InvertDisplacementField(
        field, maximumNumberOfIterations=100, maxErrorToleranceThreshold=TOLERANCE,
        meanErrorToleranceThreshold=TOLERANCE / 10, enforceBoundaryCondition=False,
    )  # fmt: skip
    pixels = target.points()
    places = pixels + _displacements(sitk, field)
    moves = _displacements(sitk, back).T
    there = [target.with_values(axis).at(places) for axis in moves]
    return Found(seconds, affine.inverse()(places), places + np.stack(there, axis=1))


def _itk(sitk: Any, image: Image) -> Any:
    """Return an image of ITK's, whose axes are in the opposite order."""
    made = sitk.GetImageFromArray(image.values.astype(np.float32))
    made.SetSpacing(image.spacing[::-1].tolist())
    return made


def _displacements(sitk: Any, field: Any) -> Floats:
    """Return a field of ITK's as a row for each pixel, shape (n, d)."""
    return np.asarray(sitk.GetArrayFromImage(field)[..., ::-1].reshape(-1, 2), dtype=np.float64)


def _syn(
    source: Image, target: Image, metric: str, iterations: tuple[int, ...] = DEFAULT_SYN
) -> Found:
    """ANTsPy's SyN, an affine map before it, with its defaults otherwise.

    Only with a seed for the whole package, and so on one thread, do its results repeat.
    """
    ants: Any = tables.require("ants", "bench")
    ants.config.set_ants_deterministic(True, seed_value=1)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        fixed, moving = (ants.from_numpy(x.values.astype(np.float32)) for x in (target, source))
        found = ants.registration(
            fixed, moving, "SyN", syn_metric=metric, reg_iterations=iterations,
            outprefix=f"{folder}/",
        )  # fmt: skip
        seconds = time.perf_counter() - start
        # ANTs moves points the other way round than images: its forward maps pull back.
        places = _moved(ants, target.points(), found["fwdtransforms"])
        return Found(seconds, places, _moved(ants, places, found["invtransforms"]))


def _moved(ants: Any, points: Floats, maps: list[str]) -> Floats:
    pandas: Any = tables.require("pandas", "bench")
    frame = pandas.DataFrame(points, columns=["x", "y"])
    return ants.apply_transforms_to_points(2, frame, maps)[["x", "y"]].to_numpy()


METHODS: dict[str, Callable[[Image, Image], Found]] = {
    "ideareg": _ideareg,
    "demons": _demons,
    "syn": lambda source, target: _syn(source, target, "mattes"),
    "syn-squares": lambda source, target: _syn(source, target, "meansquares"),
    "syn-fine": lambda source, target: _syn(source, target, "meansquares", FINE_SYN),
}


def score(case: Case, task: Task) -> dict[str, float]:
    """Return the errors ``before`` and ``after``, ``determinant``, ``inverse`` and ``seconds``."""
    source, target = Image.of(case.X[0]), Image.of(case.X_test[0])
    found = METHODS[task.method](source, target)
    seen = source.at(found.places)
    gap = np.linalg.norm(found.returned - target.points(), axis=1).max()
    return {
        "before": float(np.mean((source.values - target.values) ** 2)),
        "after": float(np.mean((seen - target.values.ravel()) ** 2)),
        "determinant": float(determinants(target, found.places).min()),
        "inverse": float(gap),
        "seconds": found.seconds,
    }


REGISTRATION = Pairs(
    sets={"brains": "pair_brain_ants"},
    methods=tuple(METHODS),
    columns=(
        Column("before", "error before", 4),
        Column("after", "error after", 4),
        Column("determinant", "least determinant", 2, np.min),
        Column("inverse", "worst inverse", 2, np.max),
    ),
    score=score,
    needs={"demons": "SimpleITK", "syn": "ants", "syn-squares": "ants", "syn-fine": "ants"},
    unit="pairs",
)
