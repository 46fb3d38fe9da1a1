"""Heads in feature space: the same regressors as in the dual, whatever the loss."""

import numpy as np
import pytest

from ideareg import kernels as ik
from ideareg.convex import solve
from ideareg.pointwise import Hinge, Logistic, Softmax, SquaredHinge
from ideareg.primal import CONSTANT, features, ridge_path

pytestmark = pytest.mark.usefixtures("double_precision")

N, RIDGE = 24, 0.05


@pytest.mark.parametrize("loss", [Logistic(), Softmax(), SquaredHinge(), Hinge()], ids=str)
def test_rows_as_centres_give_the_regressor_of_the_dual(loss):
    """... with the kernel to which the constant is added."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(N, 2))
    gram = np.asarray(ik.Matern32().gram(q))
    codes = (q[:, 0] > 0.4 * q[:, 1]).astype(int)
    Y = np.eye(2)[codes] if isinstance(loss, Softmax) else 2.0 * codes[:, None] - 1
    weight = rng.integers(0, 3, size=N).astype(float)
    T, root = features(gram, gram)
    far, near = ridge_path(loss, T, Y, weight, np.zeros(Y.shape[1]), (1.0, RIDGE))
    augmented = gram + CONSTANT**2
    np.testing.assert_allclose(
        near(T), augmented @ solve(loss, augmented, Y, weight, RIDGE), atol=2e-3
    )
    assert np.abs(far.A).max() < np.abs(near.A).max()
    np.testing.assert_allclose(T @ near.A, gram @ (root @ near.A), atol=1e-10)


def test_one_class_alone_is_predicted_everywhere():
    gram = np.eye(5)
    (fit,) = ridge_path(Hinge(), gram, np.ones((5, 1)), np.ones(5), np.zeros(1), (0.1,))
    np.testing.assert_allclose(fit(np.zeros((2, 5))), 1.0)
