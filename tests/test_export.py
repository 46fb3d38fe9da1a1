"""A fitted model as plain layers computes what the model predicts, wherever it runs."""

import itertools

import numpy as np
import pytest

from ideareg import WarpingRegressor, to_resnet
from ideareg.kernels import Activation

ROWS = 60


def table(seed=0):
    """Columns of different units, one of them skew, and targets of their own units."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, 3)) * [1, 1, 0.1] + [0, 2, 1]
    X[:, 1] = np.exp(X[:, 1])
    return X, np.tanh(2 * X[:, 0]) * X[:, 1] + 5 * X[:, 2] ** 2


def fitted(activation="tanh", **more):
    X, y = table()
    options = {
        "nu": (1.0, 0.3),
        "max_iter": 20,
        "random_state": 0,
        "n_folds": 2,
        "local": False,
    } | more
    model = WarpingRegressor(
        Activation("softplus"), warp_kernel=Activation(activation), verbose=0, **options
    )
    return model.fit(X, y)


@pytest.fixture(scope="module")
def model():
    return fitted()


def new_rows():
    return np.vstack([table(1)[0], table(2)[0]])


def test_numpy_function_is_predict(model):
    network, X = to_resnet(model), new_rows()
    assert len(network.members) == len(model.warps_) and network(X).shape == (2 * ROWS,)
    np.testing.assert_allclose(
        network(X), model.predict(X), rtol=0, atol=1e-10 * np.std(network(X))
    )


@pytest.mark.parametrize("activation", ["relu", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_other_activations_and_several_targets(activation):
    X, y = table()
    model = fitted(activation, nu=1.0, integrator="symplectic_euler", max_iter=5)
    model.fit(X, np.column_stack([y, -2 * y]))
    network = to_resnet(model)
    assert network(X).shape == (ROWS, 2)
    np.testing.assert_allclose(network(X), model.predict(X), atol=1e-10 * y.std())


def test_size_depends_on_depth_and_columns_alone(model):
    X, y = table()
    few = fitted(nu=1.0, max_iter=3).fit(X[:30], y[:30])
    members = len(model.warps_)
    assert to_resnet(model).n_parameters == members * to_resnet(few).n_parameters
    layers = 4 * (3 * 3 + 3)
    assert to_resnet(few).n_parameters == layers + 3 + 1
    assert to_resnet(few, depth=9).n_parameters == layers // 4 * 9 + 3 + 1


def test_other_depths_are_other_cuts_of_one_flow(model):
    X = new_rows()
    by_depth = [to_resnet(model, depth)(X) for depth in (16, 32, 64)]
    steps = [np.abs(b - a).max() for a, b in itertools.pairwise(by_depth)]
    assert 0 < steps[1] < 0.6 * steps[0]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-10)])
def test_onnx(model, dtype, tolerance):
    reference = pytest.importorskip("onnx.reference", reason="onnx is optional")
    X = new_rows()
    session = reference.ReferenceEvaluator(to_resnet(model).to_onnx(dtype))
    (Y,) = session.run(None, {"X": X.astype(dtype)})
    expected = model.predict(X)
    np.testing.assert_allclose(Y[:, 0], expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-10)])
def test_pytorch(model, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    X, network = new_rows(), to_resnet(model).to_torch(dtype)
    with torch.no_grad():
        Y = network(torch.tensor(X, dtype=getattr(torch, dtype))).numpy()
    expected = model.predict(X)
    np.testing.assert_allclose(Y[:, 0], expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert "members.0.layers.3.weight" in network.state_dict()


def test_what_is_no_residual_network_is_refused(model):
    X, y = table()
    options = {"nu": 1.0, "max_iter": 2, "verbose": 0}
    with pytest.raises(TypeError, match="kernel must be an Activation kernel"):
        to_resnet(WarpingRegressor(warp_kernel=Activation(), **options).fit(X, y))
    with pytest.raises(ValueError, match="integrator='geodesic'"):
        to_resnet(fitted(integrator="rk4", nu=1.0, max_iter=2))
    with pytest.raises(ValueError, match="depth must be"):
        to_resnet(model, depth=0)
