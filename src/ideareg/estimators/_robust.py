"""What an estimator says of its own robustness: Lipschitz constant, certified radii, nuggets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ideareg._numerics import scoped
from ideareg._rows import in_chunks, pad
from ideareg.readout import SparseHead
from ideareg.robustness import (
    attacked_radius,
    bounds,
    certified_radius,
    gradients,
    lipschitz_bound,
)
from ideareg.stack import Stack

Floats = NDArray[np.float64]

UNITS = ("input", "standardized")


class RobustnessMixin:
    """Certificates of a fitted stack of warps."""

    warps_: list[Any]
    n_features_in_: int
    _one_output: bool
    _scale_x: Any
    _scale_y: Any
    _validated: Any
    _standardised: Any
    _targets: Any
    _check_straight: Any

    @property
    @scoped
    def lipschitz_(self) -> Any:
        """Bound on the Lipschitz constant of `predict`, for one output a float.

        In units of ``y`` per standardised unit of ``X``. It is infinite for kernels whose
        functions have none, such as "matern12"; bent targets have none that holds everywhere.
        """
        check_is_fitted(self)
        self._check_straight("lipschitz_")
        each = [w.weight * lipschitz_bound(bounds(w.predictor)) for w in self.warps_]
        total = np.sum(each, axis=0) * self._scale_y.scale
        return float(total[0]) if self._one_output else total

    @scoped
    def certified_radius(
        self, X: ArrayLike, tolerance: ArrayLike, *, units: str = "input"
    ) -> Floats:
        r"""Return how far each row can move before a prediction can change by ``tolerance``.

        No row within this Euclidean distance is predicted differently by more. With
        ``tolerance=abs(predict(X))`` it is the distance within which the sign of the prediction,
        a decision, cannot change.

        It follows from the norms of the velocities and of the regressor, and from the gradient at
        the row; it needs no search, and errs on the safe side.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        tolerance : float or array-like
            In units of ``y``; it is broadcast to the shape of the prediction. With several outputs
            none may change by more than its tolerance.
        units : "input" or "standardized", default="input"
            Measure distances between rows of ``X``, or between standardised rows, where one unit is
            the standard deviation of a column after its power.

        Returns
        -------
        ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If ``tolerance`` is negative or does not fit the prediction, ``units`` is unknown, or
            the targets are bent.
        """
        rows, Z, allowed = self._checked(X, tolerance, units)
        stack = [(w.weight, bounds(w.predictor)) for w in self.warps_]
        moves = pad(self._scale_x.varies[None].astype(float), Z.shape[1], axis=1)

        def stretch(radius: Floats) -> Floats:
            if units == "standardized":
                return np.repeat(moves, len(Z), axis=0)
            return pad(self._scale_x.steepest(rows, radius), Z.shape[1], axis=1)

        return certified_radius(stack, self._slope(Z), allowed, stretch)

    @scoped
    def attacked_radius(
        self, X: ArrayLike, tolerance: ArrayLike, *, units: str = "input"
    ) -> Floats:
        """Return the least distance at which a gradient attack changed a prediction by more.

        Takes what `certified_radius` takes. The true radius of each row lies between the two; their
        ratio tells how tight the certificate is.

        Returns
        -------
        ndarray of shape (n_samples,)
            Infinite where the attack found nothing.
        """
        start = self.certified_radius(X, tolerance, units=units)
        start = np.where((start > 0) & np.isfinite(start), start, 1e-3)
        rows, Z, allowed = self._checked(X, tolerance, units)
        stack, d = Stack(self.warps_), self.n_features_in_
        if units == "standardized":
            moves = self._scale_x.varies.astype(float)

            def to_model(A: Floats) -> Floats:
                return pad(A, Z.shape[1], axis=1)

            def scale(A: Floats) -> Floats:
                return np.repeat(moves[None], len(A), axis=0)

        else:
            to_model = self._standardised

            def scale(A: Floats) -> Floats:
                return np.asarray(self._scale_x.steepest(A, np.zeros(len(A))))

        return attacked_radius(
            lambda A: stack.mean(to_model(A)),
            lambda A: self._slope(to_model(A))[:, :, :d] * scale(A)[:, None],
            Z[:, :d] if units == "standardized" else rows,
            allowed,
            start,
        )

    def _slope(self, Z: Floats) -> Floats:
        """Return the gradients of the mean at standardised rows, shape (n, k, d)."""
        total = 0.0
        for w in self.warps_:
            (each,) = in_chunks(lambda A, w=w: (gradients(w.predictor, A),), Z)  # type: ignore[misc]
            total = total + w.weight * each
        return np.asarray(total)

    def _checked(
        self, X: ArrayLike, tolerance: ArrayLike, units: str
    ) -> tuple[Floats, Floats, Floats]:
        """Return rows, standardised rows, and the tolerance of each output, (n, k), likewise."""
        if units not in UNITS:
            raise ValueError(f"units must be one of {', '.join(map(repr, UNITS))}, got {units!r}.")
        rows = self._validated(X)
        self._check_straight("a certified radius")
        Z = self._standardised(rows)
        wanted = self._targets(np.zeros((len(Z), len(self._scale_y.mean)))).shape
        try:
            allowed = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), wanted)
        except ValueError as error:
            raise ValueError(
                f"tolerance: expected a number or the shape {wanted} of the prediction, got "
                f"{np.shape(tolerance)}."
            ) from error
        if not (allowed >= 0).all():
            raise ValueError("tolerance must be non-negative.")
        return rows, Z, allowed.reshape(len(Z), -1) / self._scale_y.scale

    @property
    @scoped
    def nugget_used_(self) -> dict[str, float]:
        """What was really added to diagonals, in the heaviest warp.

        ``flow``: r on Γ in the equations of motion of the control points; ``whitening``: r and the
        jitter that the factorisation of their Gram matrix took; ``inducing``: the jitter on the
        inducing points, 0 for an exact head; ``head``: the noise, equally the ridge, in units of
        the standardised target. The first three are relative to k(x, x) = 1.
        """
        check_is_fitted(self)
        model = self.warps_[0].model
        r = float(model.warp.nugget)
        jitter = float(model.warp.whitening()[1]) if model.warp.depth > 0 else 0.0
        return {
            "flow": r,
            "whitening": r + jitter,
            "inducing": float(model.head.jitter) if isinstance(model.head, SparseHead) else 0.0,
            "head": float(model.head.noise),
        }
