"""Formations: one minimum in several forms, jump conditions, plain networks, idle blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from ideareg import kernels as ik
from ideareg.formation import Flow, Formation, Map, Weights
from ideareg.forming import form
from ideareg.kernels.groups import cyclic, translations
from ideareg.relaxation import Relaxation, relax

pytestmark = pytest.mark.usefixtures("double_precision")

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 1))


def two_blocks(depth=6):
    """From the plane to the line to numbers, with nuggets everywhere."""
    return Formation(
        [
            Flow(ik.Gaussian(), 0.5, 0.1, depth),
            Map(ik.Gaussian(1.2), 0.3, 0.2, dim=1),
            Flow(ik.Gaussian(0.9), 0.6, 0.1, depth),
            Map(ik.Gaussian(1.1), 0.2, 0.2),
        ]
    )


def start_of(formation):
    first = X[:, :1]
    return tuple(
        jnp.repeat(z[None], block.depth, 0) if isinstance(block, Flow) else z
        for block, z in zip(formation.blocks, (X, first, first, Y), strict=True)
    )


@pytest.fixture(scope="module")
def formed():
    with jax.enable_x64(True):
        return form(two_blocks(), X, Y, start=start_of(two_blocks()))


def test_jump_conditions_hold_at_the_minimum(formed):
    assert formed.converged and len(formed.jumps()) == 4
    assert max(formed.jumps()) <= 1e-7
    # ν p(0) with the first momentum of a layer in place of p_0 is wrong by O(h).
    p, Z = formed.coefficients()[2][0], formed.coefficients()[1]
    assert np.abs(0.6 * p - 2 * 0.3 * Z).max() > 1e-3


def test_the_reduced_value_is_that_of_its_formula(formed):
    """In NumPy, away from the minimum."""
    data = jax.tree.map(lambda z: z + 0.1 * np.sin(np.arange(z.size)).reshape(z.shape), formed.data)

    def gram(q, scale):
        return np.exp(-((q[:, None] - q[None]) ** 2).sum(-1) / (2 * scale**2))

    total, q = ((np.asarray(data[3]) - Y) ** 2).sum(), X
    for m, nu, lam, scale, map_scale in ((0, 0.5, 0.3, 1.0, 1.2), (2, 0.6, 0.2, 0.9, 1.1)):
        for after in np.asarray(data[m]):
            step = after - q
            inverse = np.linalg.inv(gram(q, scale) + 0.1 * np.eye(5))
            total += 6 * nu / 2 * np.einsum("ia,ij,ja", step, inverse, step)
            q = after
        image = np.asarray(data[m + 1])
        inverse = np.linalg.inv(gram(q, map_scale) + 0.2 * np.eye(5))
        total += lam * np.einsum("ia,ij,ja", image, inverse, image)
        q = image
    assert float(formed.formation.value(data, X, Y)) == pytest.approx(total, rel=1e-12)


def test_every_block_keeps_its_books(formed):
    books = formed.ledgers()
    assert [book["block"] for book in books] == ["flow", "map", "flow", "map"]
    loss = float(((formed.data[-1] - Y) ** 2).sum())
    assert sum(book["cost"] for book in books) + loss == pytest.approx(formed.value, rel=1e-12)
    for book in books[::2]:
        assert book["recursion"] < 1e-7 and len(book["energy"]) == 6
        assert 0 < book["energy_drift"] < 0.5
    # X^m = f_m(q^m(1)) + ρ Z^m.
    Z, q = formed.coefficients()[1], formed.data[0][-1]
    reached = ik.Gaussian(1.2).gram(q) @ Z + 0.2 * Z
    np.testing.assert_allclose(reached, formed.data[1], atol=1e-12)


def test_network_and_reduced_form_have_one_minimum(formed):
    """Sums of kernels by backpropagation, from the reduced minimum nudged."""
    start = [
        c / 6 if isinstance(block, Flow) else c
        for block, c in zip(formed.formation.blocks, formed.coefficients(), strict=True)
    ]
    assert float(formed.formation.network_value(start, X, Y)) == pytest.approx(formed.value)
    start = tuple(0.9 * part for part in start)
    network = form(formed.formation, X, Y, how="network", start=start)
    assert network.value == pytest.approx(formed.value, abs=1e-9)
    assert max(network.jumps()) <= 1e-6
    x = RNG.normal(size=(3, 2))
    np.testing.assert_allclose(network.predict(x), formed.predict(x), atol=1e-5)
    assert [z.shape for z in formed.stages(x)] == [(3, 2), (3, 2), (3, 1), (3, 1), (3, 1)]


def test_weights_and_sums_of_kernels_are_one_network():
    """A stage of five tanh layers, a change of dimension, another stage, and a head."""
    tanh = ik.Activation("tanh")
    rows, targets = np.random.default_rng(1).normal(size=(2, 20, 2))
    targets = np.sin(rows[:, :1] + rows[:, 1:])
    formation = Formation([
        Flow(tanh, 0.5, depth=3), Map(tanh, 0.2, dim=3), Flow(tanh, 0.5, depth=2), Map(tanh, 0.1),
    ])  # fmt: skip
    network = form(formation, rows, targets, how="network")
    assert isinstance(network.unknowns[0], Weights) and network.converged
    assert max(network.jumps()) <= 1e-6
    # Weights are sums of back-propagated gradients.
    p, Z, _, _ = network.coefficients()
    q = np.concatenate([rows[None], network.data[0]])
    w = np.stack([p_s.T @ tanh.feature_matrix(q_s) for p_s, q_s in zip(p, q, strict=False)]) / 3
    np.testing.assert_allclose(network.unknowns[0].w, w, atol=1e-6)
    np.testing.assert_allclose(network.unknowns[1].w, Z.T @ tanh.feature_matrix(q[-1]), atol=1e-6)
    size = float((network.unknowns[3].w ** 2).sum())
    assert network.ledgers()[3]["norm"] == pytest.approx(size, rel=1e-5)
    np.testing.assert_allclose(network.predict(rows), network.data[-1], atol=1e-12)


def test_without_flows_it_is_a_plain_network():
    """The same objective, start and optimiser as an L2-regularised perceptron: the same minimum."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(30, 2))
    targets = np.tanh(rows[:, :1] * 2) - rows[:, 1:] ** 2
    decays, shapes = (0.05, 0.02, 0.03), ((6, 3), (4, 7), (1, 5))
    first = [0.7 * rng.normal(size=shape) for shape in shapes]

    def perceptron(flat, x):
        total, at = 0.0, 0
        for decay, (out, F) in zip(decays, shapes, strict=True):
            w = flat[at : at + out * F].reshape(out, F)
            x = jnp.tanh(x) @ w[:, :-1].T + w[:, -1]
            total, at = total + decay * (w**2).sum(), at + out * F
        return x, total

    def objective(flat):
        outputs, total = perceptron(flat, rows)
        return total + ((outputs - targets) ** 2).sum()

    start = np.concatenate([w.ravel() for w in first])
    tanh = ik.Activation("tanh")
    formation = Formation(
        [Map(tanh, decay, dim=out) for decay, (out, _) in zip(decays, shapes, strict=True)]
    )
    unknowns = tuple(Weights(w) for w in first)
    value = formation.network_value(unknowns, rows, targets)
    assert float(value) == pytest.approx(float(objective(start)), rel=1e-14)

    options = {"maxiter": 5000, "maxfun": 9000, "maxcor": 40, "ftol": 1e-15, "gtol": 1e-9}
    slope = jax.jit(jax.value_and_grad(objective))
    plain = minimize(
        lambda z: tuple(np.asarray(part) for part in slope(z)), start, jac=True,
        method="L-BFGS-B", options=options,
    )  # fmt: skip
    network = form(formation, rows, targets, how="network", start=unknowns, max_iter=5000)
    assert network.value == pytest.approx(plain.fun, abs=1e-8)
    ours = np.concatenate([np.ravel(part.w) for part in network.unknowns])
    # tanh is odd, so that a hidden unit may come out with all its signs turned.
    np.testing.assert_allclose(np.abs(ours), np.abs(plain.x), atol=1e-4)
    elsewhere = rng.normal(size=(20, 2))
    expected = perceptron(plain.x, elsewhere)[0]
    np.testing.assert_allclose(network.predict(elsewhere), expected, atol=1e-4)
    assert max(network.jumps()) <= 1e-7


@pytest.mark.parametrize("how", ["reduced", "network"])
def test_blocks_of_depth_zero_change_nothing(how):
    still = Flow(ik.Gaussian(), depth=0)
    maps = [Map(ik.Gaussian(), 0.3, 0.2, dim=1), Map(ik.Gaussian(), 0.2, 0.2)]
    plain, padded = Formation(maps), Formation([still, maps[0], still, still, maps[1], still])
    ours, theirs = (form(each, X, Y, how=how) for each in (padded, plain))
    assert ours.value == pytest.approx(theirs.value, rel=1e-14)
    assert len(ours.jumps()) == len(theirs.jumps()) == 2
    x = RNG.normal(size=(4, 2))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-9)
    assert ours.ledgers()[0] == {
        "block": "flow", "energy": [], "energy_drift": 0.0, "recursion": 0.0, "cost": 0.0,
    }  # fmt: skip


def test_one_flow_and_one_map_are_the_relaxed_problem():
    formation = Formation([Flow(ik.Gaussian(), 0.5, 0.1, 4), Map(ik.Gaussian(), 0.3, 0.2)])
    ours = form(formation, X, Y)
    theirs = relax(Relaxation(ik.Gaussian(), ik.Gaussian(), 0.5, 0.3, 0.1, 0.2), X, Y, 4)
    assert ours.value == pytest.approx(float(theirs.value), abs=1e-9)
    np.testing.assert_allclose(ours.data[0], theirs.path[1:], atol=1e-6)
    np.testing.assert_allclose(ours.coefficients()[1], theirs.dual, atol=1e-6)
    x = RNG.normal(size=(3, 2))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-6)


def test_other_losses_and_classes():
    def logistic(outputs, labels):
        return jnp.logaddexp(0, -labels * outputs).sum()

    side = np.sign(X[:, :1])
    formed = form(
        Formation([Flow(ik.Gaussian(), 1.0, 0.1, 2), Map(ik.Gaussian(), 0.1, 0.1)], logistic),
        X,
        side,
    )
    assert max(formed.jumps()) <= 1e-7 and (np.sign(formed.predict(X)) == side).all()


def test_equivariant_blocks_make_an_equivariant_formation():
    """A REM warp, a REM map with pooling, a head on what is left: invariant through and through."""
    G = cyclic(4)
    warp, pool = (
        ik.REM(G, 3, ik.Gaussian(2.0)),
        ik.REM(G, 3, ik.Gaussian(2.0), out_channels=2, pool="group"),
    )
    rows = RNG.normal(size=(4, 4))
    targets = RNG.normal(size=(4, 1))
    formation = Formation(
        [Flow(warp, 1.0, 0.1, 2), Map(pool, 0.1, 0.1), Map(ik.Gaussian(), 0.1, 0.1)]
    )
    formed = form(formation, rows, targets, max_iter=200)
    assert max(formed.jumps()) < 1e-5
    x = RNG.normal(size=(3, 4))
    np.testing.assert_allclose(formed.predict(G.act(x, 3)), formed.predict(x), atol=1e-10)
    assert formed.stages(x)[2].shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Formation([]), ValueError, "at least one block"),
        (lambda: Formation([ik.Gaussian()]), TypeError, "blocks are Flow or Map"),
        (lambda: Formation([Flow(ik.Gaussian(), depth=0)]), ValueError, "nothing to learn"),
        (lambda: Flow(ik.Gaussian(), nu=-1.0), ValueError, "nu must be positive"),
        (lambda: Flow(ik.Gaussian(), depth=-1), ValueError, "number of layers"),
        (lambda: Map(ik.Gaussian(), nugget=-1.0), ValueError, "nugget must be >= 0"),
        (lambda: Map(ik.Gaussian(), dim=0), ValueError, "dim must be a positive integer"),
        (lambda: Map(ik.with_nugget(ik.Gaussian(), 0.1)), ValueError, "pass the nugget"),
        (lambda: Map(3.0), TypeError, "function of two points"),
        (
            lambda: form(Formation([Map(ik.Gaussian()), Map(ik.Gaussian())]), X, Y),
            ValueError, "give dim=",
        ),
        (lambda: form(two_blocks(), X, Y[:, 0]), ValueError, "one row per sample"),
        (lambda: form(two_blocks(), X[:3], Y), ValueError, "one row per sample"),
        (lambda: form(two_blocks(), X[:0], Y[:0]), ValueError, "one row per sample"),
        (lambda: form(two_blocks(), X * np.nan, Y), ValueError, "NaN or infinite"),
        (lambda: form(two_blocks(), X, Y, how="dual"), ValueError, "how must be one of"),
        (
            lambda: form(Formation([Map(ik.Activation())]), np.ones((5, 2)), Y),
            ValueError, "cannot be inverted",
        ),
        (
            lambda: form(Formation([Flow(ik.REM(translations((3,)), 3, ik.Gaussian()))]), X, X),
            ValueError, "3 entries",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_single_precision_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="enable_x64"):
        form(two_blocks(), X, Y)
