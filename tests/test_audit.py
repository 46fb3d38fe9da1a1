"""The audit recognises trained networks, and says what is wrong with others."""

import numpy as np
import pytest

from ideareg import plotting
from ideareg.audit import audit_resnet, read_layers
from ideareg.claims.layers import tanh_problem
from ideareg.resnet import train

pytestmark = pytest.mark.usefixtures("double_precision")

NU, L = 0.5, 10


def total_squares(outputs, Y):
    return ((outputs - Y) ** 2).sum()


@pytest.fixture(scope="module")
def network():
    import jax

    with jax.enable_x64(True):
        it = tanh_problem(nu=NU)
        return it, np.asarray(train(it, L).network.weights)


def audit(it, weights, **more):
    options = {"weight_decay": NU * L, "loss": total_squares} | more
    return audit_resnet(weights, it.start, it.loss.targets, **options)


def test_trained_network_passes(network):
    found = audit(*network)
    assert found.stationarity.max() < 1e-6
    np.testing.assert_allclose(found.norms, L**2 * (network[1] ** 2).sum((1, 2)))
    assert 0.5 < found.spread / found.expected_spread < 2
    assert "trained to the end" in str(found) and "invertible" in str(found)


@pytest.mark.parametrize("change", [0.8, "decay"])
def test_others_do_not(network, change):
    it, weights = network
    found = (
        audit(it, weights, weight_decay=5 * NU * L)
        if change == "decay"
        else audit(it, 0.8 * weights)
    )
    assert found.stationarity.max() > 0.1
    assert "not at a minimum" in str(found) and "weight_decay" in str(found)


def test_steep_layers_may_fold(network):
    found = audit(network[0], 10 * network[1])
    assert (found.lipschitz >= 1).any() and "may fold space" in str(found)


def test_pairs_and_state_dicts_are_read(network):
    weights = network[1]
    pairs = [(w[:, :-1], w[:, -1]) for w in weights]
    np.testing.assert_array_equal(read_layers(pairs).weights, weights)
    state = {}
    for s, (W, b) in enumerate(pairs):
        state |= {f"blocks.{s}.weight": W, f"blocks.{s}.bias": b}
    np.testing.assert_array_equal(read_layers(state).weights, weights)
    assert read_layers(state).output is None
    state |= {"head.weight": np.ones((1, 2)), "head.bias": np.zeros(1)}
    np.testing.assert_array_equal(read_layers(state).output, [[1, 1, 0]])
    state |= {"head.weight": np.ones((2, 2)), "head.bias": np.zeros(2)}  # square, but apart
    assert read_layers(state).weights.shape == (L, 2, 3)


@pytest.mark.parametrize(
    "weights, message",
    [
        ([], "no residual layer"),
        ([np.zeros((2, 2))], r"shape \(d, d \+ 1\)"),
        ([np.zeros(3)], "a matrix or a pair"),
        ({}, "it is empty"),
        ({"a.running_mean": np.zeros(2)}, "neither a weight nor a bias"),
        ({"a.weight": np.zeros((2, 2))}, "not a linear layer with a bias"),
    ],
)
def test_what_is_no_plain_network_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        read_layers(weights)


def test_bad_arguments(network):
    it, weights = network
    with pytest.raises(ValueError, match="weight_decay must be positive"):
        audit(it, weights, weight_decay=0.0)
    with pytest.raises(ValueError, match="loss must be one of"):
        audit(it, weights, loss="mse")
    with pytest.raises(ValueError, match=r"X: expected the shape \(n, 2\)"):
        audit_resnet(weights, np.zeros((4, 3)), np.zeros((4, 3)), weight_decay=1.0)
    with pytest.raises(ValueError, match=r"output: expected the shape \(k, 3\)"):
        audit(it, weights, output=np.zeros((1, 2)))


def test_picture(network):
    ax = plotting.audit(audit(*network))
    assert len(ax.patches) == L


def test_pytorch_network_trained_with_plain_weight_decay():
    """A residual network as people write it; its SGD knows nothing of momenta."""
    torch = pytest.importorskip("torch", reason="PyTorch is a peer, not a dependency")
    torch.manual_seed(0)
    depth, decay = 5, 0.05
    X = torch.randn(30, 2, dtype=torch.float64)
    Y = torch.sin(2 * X[:, :1]) + X[:, 1:] ** 2

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers = [torch.nn.Linear(2, 2, dtype=torch.float64) for _ in range(depth)]
            self.layers = torch.nn.ModuleList(layers)
            self.head = torch.nn.Linear(2, 1, dtype=torch.float64)

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(torch.tanh(x))
            return self.head(torch.tanh(x))

    net = Network()

    def found():
        X_, Y_ = X.numpy(), Y.numpy()
        return audit_resnet(net.state_dict(), X_, Y_, weight_decay=decay)

    before = found()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=decay)
    for _ in range(1500):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(net(X), Y).backward()
        optimiser.step()
    after = found()
    assert before.stationarity.max() > 0.5 and after.stationarity.max() < 1e-6
    assert after.spread < 0.5 * before.spread
    with torch.no_grad():
        np.testing.assert_allclose(after.loss, torch.nn.functional.mse_loss(net(X), Y), rtol=1e-12)
