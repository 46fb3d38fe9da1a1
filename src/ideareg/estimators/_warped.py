"""What a fitted warp offers whatever comes after it: transform, inverse, member, kernel."""

from __future__ import annotations

import copy
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_n_features,
    check_array,
    check_is_fitted,
    validate_data,
)

from ideareg._numerics import scoped
from ideareg._rows import Scaling, in_chunks, pad
from ideareg._types import Result
from ideareg.estimators._attributes import describe_warps, prune_warp
from ideareg.estimators._settings import check_integer
from ideareg.recipe import FittedWarp
from ideareg.uncertainty import Predictor

Floats = NDArray[np.float64]


@jax.jit
def _carry(fitted: Predictor, X: Any) -> Any:
    return (fitted.flow(X),)


@jax.jit
def _bring_back(fitted: Predictor, X: Any) -> Any:
    solution = fitted.inverse(X)
    return solution.value, solution.result


@jax.jit
def _similarity(model: Any, q1: Any, q2: Any) -> Any:
    return model.head.similarity(q1, q2)


class WarpMixin(TransformerMixin):
    """Methods of estimators whose fit leaves ``warps_`` and ``_scale_x``."""

    warps_: list[FittedWarp]
    _scale_x: Scaling

    def _validated(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, dtype=np.float64, reset=False))

    def _inputs(self, X: ArrayLike) -> Floats:
        """Return X checked, standardised and with padded columns."""
        return self._standardised(self._validated(X))

    def _standardised(self, X: Floats) -> Floats:
        width = self.warps_[0].model.warp.control_points.shape[1]
        return pad(self._scale_x.forward(X), width, axis=1)

    @scoped
    def transform(self, X: ArrayLike) -> Floats:
        """Carry the rows of X along the flow of the heaviest warp, in the units of X.

        Constant columns of the training data are passed through.
        """
        rows = self._validated(X)
        fitted = self.warps_[0].predictor
        (Z,) = in_chunks(lambda Z: _carry(fitted, Z), self._standardised(rows))
        return self._original(Z, rows)

    @scoped
    def inverse_transform(self, X: ArrayLike) -> Floats:
        """Bring warped rows back: the exact inverse of `transform`, whatever their columns' names.

        Raises
        ------
        ValueError
            If the inverse of a layer cannot be found, for points outside the image of the flow.
        """
        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64)
        _check_n_features(self, rows, reset=False)
        fitted = self.warps_[0].predictor

        def bring_back(Z: Floats) -> Any:
            value, code = _bring_back(fitted, Z)
            if Result(int(code)) is not Result.converged:
                raise ValueError(f"inverse_transform: {Result(int(code)).message}")
            return (value,)

        (Z,) = in_chunks(bring_back, self._standardised(rows))
        return self._original(Z, rows)

    def _original(self, Z: Floats, X: Floats) -> Floats:
        moved = self._scale_x.backward(Z[:, : X.shape[1]])
        return np.where(self._scale_x.varies, moved, X)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return ``warped(<name>)`` for every input."""
        names = _check_feature_names_in(self, input_features)
        return np.asarray([f"warped({name})" for name in names], dtype=object)

    def member(self, index: int = 0) -> Self:
        """Return one warp of the stack as a fitted model of its own, heaviest first.

        Raises
        ------
        IndexError
            If the stack has no such member.
        """
        check_is_fitted(self)
        one = copy.copy(self)
        one.warps_ = [self.warps_[index]._replace(weight=1.0)]
        describe_warps(one)
        return one

    @scoped
    def warping_kernel(self, X1: ArrayLike, X2: ArrayLike | None = None) -> Floats:
        r"""Return the kernel :math:`K(\varphi(x), \varphi(x'))` of the heaviest warp.

        Ridge regression with this kernel and ridge ``noise_`` on the standardised target is what
        `predict` does where the stack is one warp, its targets are not bent, and near rows correct
        nothing. With a sparse head it is the Nyström kernel.

        Parameters
        ----------
        X1, X2 : array-like of shape (n1, n_features) and (n2, n_features)
            ``None`` for X2 means X1.

        Returns
        -------
        ndarray of shape (n1, n2)
        """
        check_is_fitted(self)
        fitted = self.warps_[0]
        sides = [X1, X1 if X2 is None else X2]
        q1, q2 = (np.asarray(_carry(fitted.predictor, self._inputs(X))[0]) for X in sides)
        return np.asarray(_similarity(fitted.model, q1, q2))

    @scoped
    def set_depth(self, depth: int) -> Self:
        """Cut the flow into another number of layers, without fitting anything anew.

        The momentum determines the flow whatever its depth, so predictions change by O(1/depth):
        how much they do when the depth is doubled tells how far the layers are from the flow.

        Parameters
        ----------
        depth : int
            Number of layers, positive. It becomes the parameter ``depth``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If ``depth`` is not a positive integer.
        """
        check_is_fitted(self)
        check_integer("depth", depth, 1)
        self.warps_ = [warp.at_depth(int(depth)) for warp in self.warps_]
        self.depth = depth
        describe_warps(self)
        return self

    @scoped
    def prune(self) -> Self:
        """Return the same model without the rows that have neither momentum nor dual.

        Its predictions are those of this model, to rounding, from less data. Only a fit with
        ``n_control_points="rows"``, an exact head and a loss that is flat somewhere (hinge,
        squared hinge, ε-insensitive) has such rows.

        Raises
        ------
        ValueError
            If the fit is of another kind.
        """
        check_is_fitted(self)
        if not hasattr(self, "support_"):
            raise ValueError(
                "prune: rows are dispensable only with n_control_points='rows', learn_head=False "
                "and a loss that is flat somewhere, such as 'hinge'."
            )
        one = copy.copy(self)
        one.warps_ = [prune_warp(warp) for warp in self.warps_]
        describe_warps(one)
        return one
