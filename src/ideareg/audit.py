r"""What the theory says of a residual network that was trained elsewhere.

Weight decay makes a trained network mechanical: with :math:`\nu L` its decay, the scaled gradients
:math:`p_s = -\frac1\nu\partial\ell/\partial q_{s+1}` are momenta, every layer is
:math:`w_s = \frac1L\sum_ip_{s,i}\psi(q_{s,i})^T`, and :math:`L^2\|w_s\|^2` is the same for all
layers up to O(1/L). `audit_resnet` measures how far a given network is from that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from ideareg._types import Points, Scalar
from ideareg.kernels import Activation
from ideareg.resnet import ResNet

Floats = NDArray[np.float64]
Loss = Callable[[Array, Array], Scalar]

# A layer whose gradient is this small beside its decay was trained to the end.
STATIONARY, NEARLY = 1e-3, 5e-2


def mean_squared(outputs: Array, Y: Array) -> Scalar:
    """Return the mean over all entries of (outputs - Y)²."""
    return ((outputs - Y) ** 2).mean()


def cross_entropy(outputs: Array, Y: Array) -> Scalar:
    """Return the mean of -log softmax(outputs)[Y], with Y the index of a class, shape (n,)."""
    labels = jnp.asarray(Y).astype(int)
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1).mean()


LOSSES: dict[str, Loss] = {"mean_squared": mean_squared, "cross_entropy": cross_entropy}


class Layers(NamedTuple):
    """A plain residual network as arrays.

    Attributes
    ----------
    weights : ndarray, shape (L, d, d + 1)
        (W_s, b_s) of each residual layer.
    output : ndarray, shape (k, d + 1), or None
        (W, b) of the last linear layer.
    """

    weights: Floats
    output: Floats | None


def read_layers(weights: Any, output: Any = None) -> Layers:
    """Bring weights to one form.

    Parameters
    ----------
    weights : sequence or mapping
        Per layer an array (d, d + 1), its last column the bias, or a pair (W, b); or the
        ``state_dict`` of a PyTorch network of `Linear` layers, in order: square ones are residual,
        one of another shape after them is the output. Where all are square, the last one is the
        output if their names say so (they end in another name than the others).
    output : array (k, d + 1) or pair, optional
        The last linear layer, where it is not part of ``weights``.

    Returns
    -------
    Layers

    Raises
    ------
    ValueError
        If that is not a plain residual network with biases.
    """
    if isinstance(weights, Mapping):
        weights, found = _split_state_dict(weights)
        output = found if output is None else output
    layers = [_joined(layer) for layer in weights]
    if not layers:
        raise ValueError("weights: there is no residual layer.")
    d = layers[0].shape[0]
    if any(layer.shape != (d, d + 1) for layer in layers):
        shapes = ", ".join(str(layer.shape) for layer in layers)
        raise ValueError(
            f"weights: residual layers need the shape (d, d + 1), weights and bias; got {shapes}."
        )
    last = None if output is None else _joined(output)
    if last is not None and last.shape[1] != d + 1:
        raise ValueError(f"output: expected the shape (k, {d + 1}), got {last.shape}.")
    return Layers(np.stack(layers), last)


def _joined(layer: Any) -> Floats:
    if isinstance(layer, tuple | list):
        W, b = (np.asarray(part, dtype=np.float64) for part in layer)
        return np.column_stack([W, b])
    array = np.asarray(layer, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"weights: a layer is a matrix or a pair (W, b), got {array.shape}.")
    return array


def _split_state_dict(state: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """Return the residual layers and the output layer of a ``state_dict``."""
    pairs: dict[str, dict[str, Floats]] = {}
    for key, value in state.items():
        prefix, _, part = key.rpartition(".")
        if part not in ("weight", "bias"):
            raise ValueError(f"state_dict: {key!r} is neither a weight nor a bias of a layer.")
        pairs.setdefault(prefix, {})[part] = np.asarray(value, dtype=np.float64)
    for prefix, parts in pairs.items():
        if set(parts) != {"weight", "bias"} or parts["weight"].ndim != 2:
            raise ValueError(
                f"state_dict: layer {prefix!r} is not a linear layer with a bias, and the theory "
                "here covers plain residual layers x + W a(x) + b only."
            )
    if not pairs:
        raise ValueError("state_dict: it is empty.")
    names, layers = list(pairs), [(p["weight"], p["bias"]) for p in pairs.values()]
    last_is_square = layers[-1][0].shape[0] == layers[-1][0].shape[1]
    family = {re.sub(r"\d+", "#", name) for name in names[:-1]}
    apart = len(names) > 1 and re.sub(r"\d+", "#", names[-1]) not in family
    if last_is_square and not apart:
        return layers, None
    return layers[:-1], layers[-1]


class ResNetAudit(NamedTuple):
    """What `audit_resnet` found.

    Attributes
    ----------
    momenta : ndarray, shape (L, n, d)
        p_s of every layer and training row.
    norms : ndarray, shape (L,)
        L²‖w_s‖², twice the energy.
    spread : float
        (max - min) / mean of the norms.
    expected_spread : float
        What a stationary network of these layers would have, to first order in 1/L.
    stationarity : ndarray, shape (L,)
        ‖w_s - Σp ψᵀ/L‖ / (‖w_s‖ + ‖Σp ψᵀ/L‖): 0 where the layer balances decay and loss, at
        most 1.
    lipschitz : ndarray, shape (L,)
        ‖W_s‖, a bound on how far one layer is from the identity for activations of slope 1; below
        1 every layer is invertible.
    nu : float
        Weight decay over depth.
    loss : float
    decay : float
        The penalty on the residual layers.
    """

    momenta: Floats
    norms: Floats
    spread: float
    expected_spread: float
    stationarity: Floats
    lipschitz: Floats
    nu: float
    loss: float
    decay: float

    @property
    def verdicts(self) -> list[str]:
        """What that means, in sentences."""
        worst, L = float(self.stationarity.max()), len(self.norms)
        said = [f"loss {self.loss:.4g}, decay of the residual layers {self.decay:.4g}"]
        if worst <= STATIONARY:
            said.append(f"trained to the end: the least balanced layer is off by {worst:.1e}")
        elif worst <= NEARLY:
            said.append(f"nearly stationary: the least balanced layer is off by {worst:.1%}")
        else:
            layer = int(self.stationarity.argmax()) + 1
            said.append(
                f"not at a minimum of loss and decay: layer {layer} of {L} is off by {worst:.0%}. "
                "Train longer, lower the step, or check that weight_decay is what was used and "
                "acted on biases too"
            )
        said.append(
            f"the layers' norms differ by {self.spread:.1%}, where {self.expected_spread:.1%} "
            f"is what {L} layers of such a flow would show"
        )
        steep = int((self.lipschitz >= 1).sum())
        if steep:
            said.append(f"{steep} of {L} layers may fold space: too few layers for this flow")
        else:
            said.append("every layer is invertible: the network is a flow cut into steps")
        return said

    def __str__(self) -> str:
        """Return the verdicts, a line each."""
        return "\n".join(f"- {line}" for line in self.verdicts)


def audit_resnet(
    weights: Any,
    X: Any,
    Y: Any,
    *,
    weight_decay: float,
    output: Any = None,
    activation: str = "tanh",
    loss: str | Loss = "mean_squared",
) -> ResNetAudit:
    r"""Measure how mechanical a trained residual network is.

    Its layers are :math:`x + W_sa(x) + b_s`, its output is linear in the last points or, where
    ``output`` is given, :math:`Wa(x) + b`. It was trained on
    :math:`\text{loss} + \frac{\text{weight decay}}2\sum_s\|(W_s, b_s)\|^2`, the convention of
    PyTorch's ``SGD(weight_decay=...)``, so that ν = weight decay / L.

    Parameters
    ----------
    weights : sequence of arrays, or a PyTorch ``state_dict``
        See `read_layers`.
    X : array, shape (n, d)
        The training rows.
    Y : array, shape (n, k), or (n,) for classes
    weight_decay : float
        Positive.
    output : array, shape (k, d + 1), or a pair (W, b), optional
    activation : {"tanh", "relu", "softplus", "sigmoid"}
    loss : {"mean_squared", "cross_entropy"} or callable
        Of outputs and Y.

    Returns
    -------
    ResNetAudit
        ``print(audit)`` says it in words; `ideareg.plotting.audit` draws it.

    Raises
    ------
    ValueError
        If the weights are not those of a plain residual network, or do not fit X.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(10, 2))
    >>> audit = audit_resnet(0.1 * rng.normal(size=(4, 2, 3)), X, X, weight_decay=0.1)
    >>> audit.momenta.shape, bool(audit.stationarity.max() > 0.5)
    ((4, 10, 2), True)
    """
    if not weight_decay > 0:
        raise ValueError(f"weight_decay must be positive, got {weight_decay!r}.")
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}.")
        loss = LOSSES[loss]
    layers = read_layers(weights, output)
    X = np.asarray(X, dtype=np.float64)
    d = layers.weights.shape[1]
    if X.ndim != 2 or X.shape[1] != d:
        raise ValueError(f"X: expected the shape (n, {d}) of the layers' width, got {X.shape}.")
    with jax.enable_x64(True):
        return _audit(layers, X, jnp.asarray(np.asarray(Y)), weight_decay, activation, loss)


def _audit(
    layers: Layers, X: Floats, Y: Array, weight_decay: float, activation: str, loss: Loss
) -> ResNetAudit:
    kernel = Activation(activation)
    network = ResNet(jnp.asarray(layers.weights), kernel)
    nu = weight_decay / network.depth
    rows = jnp.asarray(X)

    def end(q: Points) -> Scalar:
        outputs = q if layers.output is None else kernel.feature_matrix(q) @ layers.output.T
        return loss(outputs, Y)

    q = network.states(rows)
    p = network.momenta(rows, end, nu)
    balanced = network.weights_from(rows, p)
    norms = np.asarray(network.norms)
    return ResNetAudit(
        momenta=np.asarray(p),
        norms=norms,
        spread=_spread(norms),
        expected_spread=float(np.ptp(_first_order(network, q[:-1], p)) / norms.mean()),
        stationarity=np.asarray(_relative_gap(network.weights, balanced)),
        lipschitz=np.linalg.norm(layers.weights[:, :, :-1], ord=2, axis=(1, 2)),
        nu=nu,
        loss=float(end(q[-1])),
        decay=float(network.decay(nu)),
    )


def _spread(norms: Floats) -> float:
    return float(np.ptp(norms) / norms.mean()) if norms.mean() > 0 else 0.0


def _relative_gap(a: Array, b: Array) -> Array:
    def size(w: Array) -> Array:
        return jnp.sqrt((w**2).sum((1, 2)))

    total = size(a) + size(b)
    return jnp.where(total > 0, size(a - b) / jnp.where(total > 0, total, 1.0), 0.0)


def _first_order(network: ResNet, q: Array, p: Array) -> Floats:
    """Return q̇·ṗ/L at every layer: twice the first-order term of the energy."""
    L = network.depth
    out = []
    for w, at, momentum in zip(network.weights, q, p, strict=True):
        velocity, pull_back = jax.vjp(lambda x, w=w: L * network.kernel.feature_matrix(x) @ w.T, at)
        out.append(-jnp.vdot(velocity, pull_back(momentum)[0]) / L)
    return np.asarray(out)
