r"""A fitted model as a plain residual network, to be served without this library.

Where the warp's kernel is that of activations, the flow of the control points is a network with
the layers :math:`x + W_sa(x/\ell) + b_s`, and a regressor of features is one more linear layer. The
size of the network depends on depth and number of columns alone, not on the training data.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ideareg._numerics import numerics
from ideareg._rows import TINY_POWER, Scaling
from ideareg.estimators.warping import WarpingRegressor
from ideareg.integrators import Geodesic, SymplecticEuler
from ideareg.kernels import Activation
from ideareg.recipe import FittedWarp

Floats = NDArray[np.float64]

ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "sigmoid": expit,
}
ONNX_OPSET = 17


class Member(NamedTuple):
    """One network of the stack, in units of its own lengths.

    Attributes
    ----------
    share : float
        Its weight in the stack.
    stretch : ndarray, shape (d,)
        Multiplies the standardised inputs.
    weights : ndarray, shape (L, d, d)
    biases : ndarray, shape (L, d)
        Layer s is ``x + a(x) @ weights[s].T + biases[s]``.
    restretch : ndarray, shape (d,)
        Multiplies the points after the last layer.
    output : ndarray, shape (k, d)
    output_bias : ndarray, shape (k,)
        Last, ``b(x) @ output.T + output_bias`` with the activation b of the regressor.
    """

    share: float
    stretch: Floats
    weights: Floats
    biases: Floats
    restretch: Floats
    output: Floats
    output_bias: Floats


class PlainResNet(NamedTuple):
    """A stack of residual networks as arrays; call it as a function of raw rows.

    Attributes
    ----------
    activation, output_activation : str
    inputs : Scaling
        Standardises the columns.
    members : list of Member
    target_mean, target_scale : ndarray, shape (k,)
    one_output : bool
        Whether predictions are of shape (n,).
    """

    activation: str
    output_activation: str
    inputs: Scaling
    members: list[Member]
    target_mean: Floats
    target_scale: Floats
    one_output: bool

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases of all networks."""
        return sum(
            m.weights.size + m.biases.size + m.output.size + m.output_bias.size
            for m in self.members
        )

    def __call__(self, X: ArrayLike) -> Floats:
        """Return the prediction at rows X, shape (n, d), with NumPy alone."""
        a, b = ACTIVATIONS[self.activation], ACTIVATIONS[self.output_activation]
        Z = self.inputs.forward(np.asarray(X, dtype=np.float64))
        total = np.zeros((len(Z), len(self.target_mean)))
        for m in self.members:
            x = Z * m.stretch
            for W, bias in zip(m.weights, m.biases, strict=True):
                x = x + a(x) @ W.T + bias
            total += m.share * (b(x * m.restretch) @ m.output.T + m.output_bias)
        Y = total * self.target_scale + self.target_mean
        return Y[:, 0] if self.one_output else Y

    def to_torch(self, dtype: str = "float32") -> Any:
        """Return a ``torch.nn.Module``; its ``state_dict`` has the layers by name.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        """
        from ideareg._torch import module

        return module(self, dtype)

    def to_onnx(self, dtype: str = "float32") -> Any:
        """Return an ``onnx.ModelProto`` with input ``X`` (n, d) and output ``Y`` (n, k).

        Raises
        ------
        ImportError
            If onnx is not installed.
        """
        return _onnx_model(self, dtype)


def to_resnet(model: WarpingRegressor, depth: int | None = None) -> PlainResNet:
    """Export a fitted regressor as plain residual layers.

    Parameters
    ----------
    model : WarpingRegressor
        Fitted with ``warp_kernel=Activation(...)``, ``kernel=Activation(...)`` and an integrator
        whose layers are residual ones ("geodesic" or "symplectic_euler").
    depth : int, optional
        Number of layers; that of the model by default. The momentum has no depth, so any other
        gives the same flow in coarser or finer steps.

    Returns
    -------
    PlainResNet
        At the model's own depth it equals ``predict`` to rounding.

    Raises
    ------
    TypeError
        If one of the kernels is not that of activations.
    ValueError
        If the integrator's layers are not residual ones, the targets are bent, or ``depth`` is not
        positive.
    """
    model._check_straight("to_resnet")
    activation, output_activation = (_activation(model, n) for n in ("warp_kernel", "kernel"))
    with numerics():
        members = [_member(w, depth, model.n_features_in_) for w in model.warps_]
    return PlainResNet(
        activation=activation,
        output_activation=output_activation,
        inputs=model._scale_x,
        members=members,
        target_mean=model._scale_y.mean,
        target_scale=model._scale_y.scale,
        one_output=model._one_output,
    )


def _activation(model: WarpingRegressor, name: str) -> str:
    kernel = getattr(model, name)
    if not isinstance(kernel, Activation):
        raise TypeError(
            f"to_resnet: {name} must be an Activation kernel, whose functions are layers of fixed "
            f"size; got {kernel!r}."
        )
    return kernel.name


def _member(fitted: FittedWarp, depth: int | None, d: int) -> Member:
    warp, posterior = fitted.predictor.warp, fitted.predictor.posterior
    if not isinstance(warp.integrator, Geodesic | SymplecticEuler):
        raise ValueError(
            "to_resnet: the layers of this integrator are not residual ones; fit with "
            "integrator='geodesic' or 'symplectic_euler'."
        )
    trajectory = fitted.predictor.trajectory
    if depth is not None and depth != warp.depth:
        warp = warp.at_depth(depth)
        trajectory = warp.trajectory()
    psi: Any = warp.kernel
    lengths = np.exp(warp.log_scale)
    weights = np.zeros((warp.depth, d, d + 1))
    for s in range(warp.depth):
        q, p = (np.asarray(part[s]) for part in (trajectory.stages.q, trajectory.stages.p))
        features = np.asarray(psi.feature_matrix(q / lengths))
        weights[s] = (float(trajectory.h) * p.T @ features / lengths[:, None])[:d]
    inner: Any = posterior.kernel
    features = np.asarray(inner.kernel.feature_matrix(posterior.points / inner.length_scale))
    output = np.asarray(posterior.dual * posterior.present[:, None]).T @ features
    return Member(
        share=fitted.weight,
        stretch=1 / lengths[:d],
        weights=weights[:, :, :-1],
        biases=weights[:, :, -1],
        restretch=(lengths / np.asarray(inner.length_scale))[:d],
        output=output[:, :-1],
        output_bias=output[:, -1],
    )


def _onnx_model(network: PlainResNet, dtype: str) -> Any:
    try:
        onnx = importlib.import_module("onnx")
        helper = importlib.import_module("onnx.helper")
        numpy_helper = importlib.import_module("onnx.numpy_helper")
    except ImportError as error:
        raise ImportError("to_onnx needs onnx: pip install 'ideareg[export]'") from error
    kind = {"float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE}[dtype]
    build = _OnnxGraph(helper, numpy_helper, np.dtype(dtype))
    total = None
    Z = _onnx_inputs(build, network.inputs)
    for m in network.members:
        x = build("Mul", Z, build.constant(m.stretch))
        for W, bias in zip(m.weights, m.biases, strict=True):
            step = build("MatMul", build.activation(network.activation, x), build.constant(W.T))
            x = build("Add", x, build("Add", step, build.constant(bias)))
        last = build("Mul", x, build.constant(m.restretch))
        last = build.activation(network.output_activation, last)
        scale = m.share * network.target_scale
        out = build("MatMul", last, build.constant((scale[:, None] * m.output).T))
        out = build("Add", out, build.constant(scale * m.output_bias))
        total = out if total is None else build("Add", total, out)
    build.node("Add", [total, build.constant(network.target_mean)], "Y")
    d, k = len(network.inputs.mean), len(network.target_mean)
    graph = helper.make_graph(
        build.nodes,
        "ideareg",
        [helper.make_tensor_value_info("X", kind, ["n", d])],
        [helper.make_tensor_value_info("Y", kind, ["n", k])],
        build.constants,
    )
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    model = helper.make_model(graph, producer_name="ideareg", opset_imports=opset)
    onnx.checker.check_model(model)
    return model


class _OnnxGraph:
    """Collects nodes and constants; each call adds a node and returns the name of its output."""

    def __init__(self, helper: Any, numpy_helper: Any, dtype: np.dtype[Any]) -> None:
        self.helper, self.numpy_helper, self.dtype = helper, numpy_helper, dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str) -> str:
        name = f"t{len(self.nodes)}"
        self.node(op, list(inputs), name)
        return name

    def node(self, op: str, inputs: list[Any], output: str) -> None:
        self.nodes.append(self.helper.make_node(op, inputs, [output]))

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype=self.dtype)
        self.constants.append(self.numpy_helper.from_array(array, name))
        return name

    def activation(self, name: str, x: str) -> str:
        return self({"tanh": "Tanh", "relu": "Relu", "softplus": "Softplus",
                     "sigmoid": "Sigmoid"}[name], x)  # fmt: skip


def _onnx_inputs(build: _OnnxGraph, scaling: Scaling) -> str:
    """Add the nodes of `Scaling.forward`."""
    x = build("Div", "X", build.constant(scaling.unit))
    if (scaling.power != 1).any():
        positive = build("GreaterOrEqual", x, build.constant(0.0))
        exponent = build(
            "Where", positive, build.constant(scaling.power), build.constant(2 - scaling.power)
        )
        one = build.constant(1.0)
        log = build("Log", build("Add", build("Abs", x), one))
        safe = build("Max", exponent, build.constant(TINY_POWER))
        power = build("Mul", safe, log)
        # exp(z) - 1 = tanh(z/2) (exp(z) + 1), which does not cancel where z is small.
        half = build("Tanh", build("Mul", power, build.constant(0.5)))
        grown = build("Mul", half, build("Add", build("Exp", power), one))
        bent = build(
            "Where",
            build("Greater", exponent, build.constant(TINY_POWER)),
            build("Div", grown, safe),
            log,
        )
        x = build("Mul", build("Sign", x), bent)
    scale = np.where(scaling.varies, 1 / scaling.scale, 0.0)
    return build("Mul", build("Sub", x, build.constant(scaling.mean)), build.constant(scale))
