"""Inducing patches trained from labels: derivatives, held-out rows, checkpoints, kills."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from ideareg import ModelFileError, REMClassifier, REMRegressor, load, persistence, refinement
from ideareg.convolution import WHITENING_RIDGE, Plan, _convolve, fit_layers
from ideareg.kernelmachine import Settings, fit_machine
from ideareg.kernels import groups
from ideareg.refinement import Checkpoint, Refinement, inverse_root, left_out, refine, with_patches

# Those of `machine`: tests of one shape share what is compiled.
PLANS = (Plan(3, 3, 3.0, 2, 1.0, True), Plan(3, 3, 4.0, 2, 1.46, False))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def series(rows=100):
    """Rows whose class is which of two neighbouring humps is the higher."""
    random = np.random.default_rng(0)
    X = 0.3 * random.normal(size=(rows, 16))
    place, y = random.integers(14, size=rows), np.arange(rows) % 2
    X[np.arange(rows), place] += 1 + y
    X[np.arange(rows), place + 1] += 2 - y
    return X, y


def machine(**options):
    shape = {"image_shape": (1, 16), "n_patches": (3, 3), "window": (3, 3), "gamma": 0.3}
    return REMClassifier(**{**shape, "random_state": 0, "verbose": 0, **options})


# ---------------------------------------------------------------- derivatives


def test_the_derivative_of_a_convolution(double_precision):
    padded, filters = normal(2, 5, 6, 3), normal(3, 2, 3, 4)

    def plain(padded, filters):
        return jax.lax.conv_general_dilated(
            padded, filters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    slopes = [
        jax.jit(jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), (0, 1)))(padded, filters)
        for f in (_convolve, plain)
    ]
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("meeting", [True, False])
def test_the_derivative_of_an_inverse_root(meeting, double_precision):
    B = normal(4, 4)
    A = np.eye(4) if meeting else B @ B.T
    np.testing.assert_allclose(
        np.linalg.inv(np.linalg.matrix_power(inverse_root(A), 2)), A + WHITENING_RIDGE * np.eye(4)
    )
    C, step = normal(4, 4, seed=1), 1e-6 * (B + B.T)
    slope = np.vdot(jax.grad(lambda A: jnp.vdot(C, inverse_root(A)))(A), step)
    risen = np.vdot(C, inverse_root(A + step) - inverse_root(A - step)) / 2
    np.testing.assert_allclose(slope, risen, rtol=1e-6)


def test_predictions_leave_their_row_out(double_precision):
    F, Y = normal(9, 3), normal(9, 2, seed=1)
    found = jax.jit(left_out)(F, Y, 0.3, 0.2)
    centred = Y - Y.mean(0)
    K = np.exp(-0.3 * ((F[:, None] - F) ** 2).sum(-1))
    for i in range(9):
        rest = np.delete(np.arange(9), i)
        A = K[np.ix_(rest, rest)] + (0.2 + refinement.LEAST_RIDGE) * np.eye(8)
        wanted = Y.mean(0) + K[i, rest] @ np.linalg.solve(A, centred[rest])
        np.testing.assert_allclose(found[i], wanted)


def test_flat_patches_have_derivatives(double_precision):
    """Images that are empty in part: the square root of their norm has no derivative there."""
    images = np.zeros((4, 8, 8, 1))
    images[:, 2:4, 2:4] = normal(4, 2, 2, 1)
    layers = fit_layers(images, PLANS, False, np.random.RandomState(0))

    @jax.jit
    def loss(Z):
        first = with_patches(layers[0], Z, 3.0)
        return layers[1](first(images)).sum()

    Z = np.asarray(layers[0].inducing)
    slope, step = jax.jit(jax.grad(loss))(Z), 1e-6 * normal(*Z.shape)
    assert np.isfinite(slope).all()
    risen = (loss(Z + step) - loss(Z - step)) / 2
    np.testing.assert_allclose(np.vdot(slope, step), risen, rtol=1e-5)


# ---------------------------------------------------------------- estimators


@pytest.mark.slow
def test_a_refinement_pays_where_patches_matter():
    X, y = series(400)
    plain, refined = (machine(refine_epochs=e).fit(X[:100], y[:100]) for e in (0, 100))
    assert refined.score(X[100:], y[100:]) > plain.score(X[100:], y[100:]) + 0.1


@pytest.mark.slow
def test_refinement_on_a_space_keeps_the_invariance():
    X = normal(80, 8)
    y = (X * np.roll(X, 1, axis=1)).sum(1)
    model = REMRegressor(
        space=groups.cyclic(8), n_patches=(6,), window=(3,), sharpness=(2.0,), refine_epochs=3,
        gamma=0.1, ridge=0.1, dtype="float64", random_state=0, verbose=0,
    ).fit(X, y)  # fmt: skip
    moved = model.predict(np.roll(X, 3, axis=1))
    np.testing.assert_allclose(moved, model.predict(X), atol=1e-10)


def test_held_out_rows_are_not_seen():
    """Other labels of the rows that γ, λ and the calibration go by: the same layers."""
    X, y = series()
    images, Y = X.reshape(100, 1, 16, 1).astype(np.float32), 2.0 * y[:, None] - 1
    settings = Settings((1, 16), 1, PLANS, None, None, False, 100, 0.1, 0.1, Refinement(2, True))

    def fit(Y):
        random = np.random.RandomState(0)
        score = lambda f, rows: -float(((f - Y[rows]) ** 2).mean())  # noqa: E731
        return fit_machine(images, Y, settings, score, random, lambda *a, **k: None)[:2]

    first, held = fit(Y)
    assert len(held.rows) == 20
    other = Y.copy()
    other[held.rows] *= -1
    second, _ = fit(other)
    for one, two in zip(first.extractor.layers, second.extractor.layers, strict=True):
        np.testing.assert_array_equal(one.inducing, two.inducing)
    seen = np.setdiff1d(np.arange(100), held.rows)[:20]
    other = Y.copy()
    other[seen] *= -1
    third, _ = fit(other)
    assert (third.extractor.layers[0].inducing != first.extractor.layers[0].inducing).any()


@pytest.mark.parametrize(
    ("options", "checkpoint", "match"),
    [
        ({"refine_epochs": -1}, None, "refine_epochs must be an integer"),
        ({}, "file", "without refinement there is no training to go on with"),
        ({"refine_epochs": 1, "image_shape": (1, 1, 16)}, None, "have none: give the image_shape"),
    ],
)
def test_parameters_are_checked(options, checkpoint, match, tmp_path):
    path = tmp_path / checkpoint if checkpoint else None
    with pytest.raises(ValueError, match=match):
        machine(**options).fit(*series(20), checkpoint=path)


# ---------------------------------------------------------------- checkpoints


def start():
    X, y = series(80)
    images = X.reshape(80, 1, 16, 1).astype(np.float32)
    layers = fit_layers(images, PLANS, False, np.random.RandomState(0))
    return layers, lambda chosen, random: images[chosen], 2.0 * y[:, None] - 1


def test_an_interrupt_keeps_the_steps_so_far(tmp_path):
    layers, rows, Y = start()
    steps = []

    def interrupt(stage, loss):
        steps.append(loss)
        if len(steps) == 3:
            raise KeyboardInterrupt

    task, path = Refinement(8, True), tmp_path / "c"
    with pytest.warns(ConvergenceWarning, match="Interrupted by the user"):
        early = refine(layers, rows, Y, task, 1, interrupt, Checkpoint(path, "f"))
    assert persistence.read(path)[1]["step"] == 3
    whole = refine(layers, rows, Y, task, 1, interrupt, Checkpoint(None, "f"))
    assert len(steps) == 11 and min(steps[3:]) < steps[0]
    resumed = refine(layers, rows, Y, task, 1, interrupt, Checkpoint(path, "f"))
    assert len(steps) == 16
    for a, b, c in zip(whole, resumed, early, strict=True):
        np.testing.assert_array_equal(a.inducing, b.inducing)
        assert a.alpha == b.alpha != c.alpha


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    X, y = series()
    path = tmp_path / "c"
    machine(refine_epochs=2).fit(X, y, checkpoint=path)
    for options, labels in (({"refine_epochs": 3}, y), ({"refine_epochs": 2}, 1 - y)):
        with pytest.raises(ModelFileError, match="is not a checkpoint of this fit"):
            machine(**options).fit(X, labels, checkpoint=path)
    with pytest.raises(ModelFileError, match="is a checkpoint of a training, no model"):
        load(path)
    kind, header, arrays = persistence.read(path)
    name = max(arrays, key=lambda name: arrays[name].size)
    for damage in (arrays[name] * np.nan, arrays[name][..., :1]):
        persistence.write(path, kind, header, arrays | {name: damage})
        with pytest.raises(ModelFileError, match="is not a checkpoint of this fit"):
            machine(refine_epochs=2).fit(X, y, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="is truncated"):
        machine(refine_epochs=2).fit(X, y, checkpoint=path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        machine(refine_epochs=2).fit(X, y, checkpoint=tmp_path / "none" / "c")


EPOCHS = 400
CHILD = """
import sys
sys.path.insert(0, {tests!r})
from ideareg import refinement
from test_rem_refinement import EPOCHS, machine, series

refinement.SECONDS = 0.0  # every step is written
machine(refine_epochs=EPOCHS).fit(*series(), checkpoint={path!r})
"""


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path):
    """SIGKILL at a random moment; then the same call in this process."""
    path = tmp_path / "c"
    code = CHILD.format(tests=os.path.dirname(__file__), path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not path.exists():
        time.sleep(0.05)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.stderr.read()
    assert 0 < step_in(path) < EPOCHS
    X, y = series()
    resumed = machine(refine_epochs=EPOCHS).fit(X, y, checkpoint=path)
    whole = machine(refine_epochs=EPOCHS).fit(X, y)
    assert step_in(path) == EPOCHS
    for one, other in zip(*(m.machine_.extractor.layers for m in (resumed, whole)), strict=True):
        np.testing.assert_array_equal(one.inducing, other.inducing)
        assert one.alpha == other.alpha
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))


def step_in(path):
    """How many steps led to a checkpoint; it is whole whenever it is read."""
    return persistence.read(path)[1]["step"]
