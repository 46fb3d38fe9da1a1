"""Images: EPDiff on a grid against particles, the objective's gradient, and what a fit does."""

import jax
import numpy as np
import pytest

from ideareg import Hamiltonian, State, load
from ideareg import kernels as ik
from ideareg._types import Result
from ideareg.gridflow import Box, Carrier, interpolate, resample, shoot, wrapped
from ideareg.integrators import RK4
from ideareg.registration import Image, Registration, Similarity, align_images, dice
from ideareg.registration.affine import Affine
from ideareg.registration.images import determinants
from ideareg.registration.imaging import Domain, _level, _value_and_gradient
from ideareg.registration.similarity import SIMILARITIES
from ideareg.shooting import shoot as shoot_points
from ideareg.shooting import transport

N = 28  # one resolution
GRID = np.mgrid[:N, :N] - (N - 1) / 2


def blob(a=1.0, b=1.0, shift=(0.0, 0.0), radius=7.0, grid=GRID):
    """A soft ellipse with half axes a and b times the radius."""
    x, y = grid[0] - shift[0], grid[1] - shift[1]
    return 1 / (1 + np.exp(2 * (np.sqrt((x / a) ** 2 + (y / b) ** 2) - radius)))


def moved_by(image, matrix, shift):
    """The image pushed forward by x -> matrix x + shift, drawn exactly."""
    back = np.linalg.inv(matrix)
    x = np.einsum("ij,j...->i...", back, GRID - np.reshape(shift, (2, 1, 1)))
    return image(x)


@pytest.fixture(scope="module")
def fit():
    return Registration(4.0).fit(Image.of(blob()), Image.of(blob(1.25, 0.8)))


# ------------------------------------------------------------------ the flow on a grid


@pytest.mark.usefixtures("double_precision")
def test_grid_is_the_flow_of_its_nodes_as_particles():
    """The same Hamiltonian system; what is left is the time step, of second order."""
    kernel, n = ik.Gaussian(1.0), 20
    box = Box.of(kernel, (10.0, 10.0), (n, n))
    x = box.nodes() - 5
    density = 0.05 * np.exp(-(x**2).sum(1))[:, None] * np.array([1.0, 0.5]) * (1 + 0.3 * x[:, :1])
    waves = box.coefficients(density.T.reshape(2, n, n))
    state = State(box.nodes(), np.asarray(box.values(waves)).reshape(2, -1).T)
    ham, at = Hamiltonian(kernel), np.array([[5.0, 5.0], [4.0, 6.3], [6.0, 6.0]])
    path = shoot_points(ham, state, 10, RK4())
    goal = np.asarray(transport(ham, RK4(), path, at))
    assert float(box.energy(waves)) == pytest.approx(float(path.energies[0]), rel=1e-6)
    errors = []
    for depth in (5, 10):
        flow = shoot(box, waves, depth)
        errors.append(np.abs(np.asarray(Carrier.of(box, flow, True)(at)) - goal).max())
    assert np.abs(goal - at).max() > 0.1
    assert errors[1] < 1e-3 and errors[0] / errors[1] == pytest.approx(4, abs=0.8)


@pytest.mark.usefixtures("double_precision")
def test_energy_is_kept_to_the_order_of_the_time_step():
    box = Box.of(ik.Matern52(2.0), (16.0, 16.0), (20, 20))
    z = 0.5 * np.random.default_rng(0).normal(size=(2, 20, 20))
    p = box.momentum(z)
    kept = np.asarray(box.coefficients(z))
    assert float(box.energy(p)) == pytest.approx(0.5 * (np.asarray(box.values(kept)) ** 2).sum())
    drifts = [np.ptp(np.asarray(shoot(box, p, depth).energies)) for depth in (10, 20)]
    assert drifts[1] < drifts[0] / 3
    assert drifts[1] < 1e-2 * float(box.energy(p))


@pytest.mark.usefixtures("double_precision")
def test_interpolation_and_resampling_are_exact_where_they_should_be():
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(6, 4, 2))
    at = np.array([[1.0, 3.0], [5.0, 0.0]])
    linear = np.asarray(interpolate(wrapped(nodes, 1), at, 1))
    np.testing.assert_allclose(linear, nodes[[1, 5], [3, 0]], atol=1e-12)
    box = Box.of(ik.Gaussian(1.0), (8.0, 8.0), (12, 16))
    waves = box.coefficients(rng.normal(size=(12, 16)))
    finer = resample(waves, (12, 16), (24, 20))
    np.testing.assert_allclose(resample(finer, (24, 20), (12, 16)), waves, atol=1e-12)
    values = np.fft.irfftn(np.asarray(finer), (24, 20), axes=(0, 1))
    np.testing.assert_allclose(values[::2, ::5], np.asarray(box.values(waves))[:, ::4], atol=1e-12)
    with pytest.raises(ValueError, match="even numbers of nodes"):
        Box.of(ik.Gaussian(1.0), (8.0,), (9,))


@pytest.mark.usefixtures("double_precision")
def test_gradient_of_the_objective():
    shapes = blob(), blob(1.25, 0.8)
    source, target = map(Image.of, shapes)
    regions = [Image.of(np.round(2 * values), labels=True) for values in shapes]
    pairs, kernel = [(source, target), tuple(regions)], ik.Matern52(5.0)
    domain = Domain.around(target, kernel)
    level = _level(
        domain, kernel, 4.0, pairs, Affine.identity(2), "ssd", 0.03, (1.0, 0.5), (), 4, np.float64
    )
    rng = np.random.default_rng(0)
    z, way = 3 * rng.normal(size=(2, 2, *level.box.shape))
    _, slope = _value_and_gradient(level, z)
    h = 1e-6
    ends = [float(_value_and_gradient(level, z + s * h * way)[0]) for s in (1, -1)]
    assert float((slope * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4)


# ------------------------------------------------------------------ what a fit does


def test_disc_becomes_an_ellipse(fit):
    assert fit.converged_ and fit.residual_ < 0.02
    assert fit.smallest_jacobian_ > 0.2
    assert fit.energy_drift_ < 0.01
    mismatch = np.mean((fit.transform_image() - fit.target_.values) ** 2)
    assert mismatch < 0.03 * np.mean((fit.source_.values - fit.target_.values) ** 2)
    # The ends of the half axes go with it: push-forward of points, pull-back of images.
    ends = (N - 1) / 2 + 7.0 * np.array([[1.0, 0.0], [0.0, 1.0]])
    goal = (N - 1) / 2 + 7.0 * np.array([[1.25, 0.0], [0.0, 0.8]])
    assert np.abs(fit.transform_points(ends) - goal).max() < 0.5


def test_inverse_and_jacobian(fit):
    pixels = fit.target_.points()
    assert np.abs(fit.transform_points(fit.inverse(pixels)) - pixels).max() < 0.01
    x = np.array([[12.0, 14.0], [20.0, 18.0]])
    h, slopes = 1e-4, []
    for way in np.eye(2):
        slopes.append((fit.transform_points(x + h * way) - fit.transform_points(x - h * way)) / 2)
    expected = np.linalg.det(np.stack(slopes, axis=-1) / h)
    np.testing.assert_allclose(fit.jacobian_determinant(x), expected, rtol=1e-5)
    grid = fit.displacement_field([12.0, 20.0], [14.0])
    ends = np.array([[12.0, 14.0], [20.0, 14.0]])
    np.testing.assert_allclose(grid[:, 0], fit.transform_points(ends) - ends, atol=1e-12)


def test_labels_move_with_the_image(fit):
    """Labels of the nearest pixel: no new ones, and those of the disc come onto the ellipse's."""
    labels, goal = (np.where(image > 0.5, 7, 2).astype(np.uint8) for image in
                    (blob(), blob(1.25, 0.8)))  # fmt: skip
    moved = fit.transform_image(labels, order=0)
    assert set(np.unique(moved)) == {2, 7}

    def dice(a):
        return 2 * np.sum((a == 7) & (goal == 7)) / (np.sum(a == 7) + np.sum(goal == 7))

    assert dice(labels) < 0.9
    assert dice(moved) > 0.95


def test_geodesic_and_trajectories(fit):
    np.testing.assert_allclose(fit.geodesic(0), fit.source_.values, atol=1e-12)
    np.testing.assert_allclose(fit.geodesic(1), fit.transform_image(), atol=1e-12)
    x = np.array([[20.5, 13.5]])
    way = fit.trajectories(x)
    assert way.shape == (fit.depth + 1, 1, 2)
    np.testing.assert_allclose(way[-1], fit.transform_points(x), atol=1e-12)


def test_momentum_lies_along_the_gradient(fit):
    """p₀ = P ∇I at the minimum: it is large only where the source has an edge."""
    nodes = fit.control_points_ - (N - 1) / 2
    radius = np.sqrt((nodes**2).sum(1))
    strength = np.sqrt((fit.momentum_**2).sum(1))
    edge = np.abs(radius - 7) < 3
    along = np.abs((fit.momentum_[edge] * nodes[edge]).sum(1)) / radius[edge]
    assert (along**2).sum() > 0.9 * (strength[edge] ** 2).sum()
    assert (strength[edge] ** 2).sum() > 0.7 * (strength**2).sum()


def test_units_and_axes_do_not_matter(fit):
    """Half the spacing, a turned frame: the same pixels come out."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    place = {"spacing": 0.5, "origin": [3.0, -1.0], "direction": turn}
    placed = [Image.of(image.values, **place) for image in (fit.source_, fit.target_)]
    other = Registration(2.0).fit(*placed)
    np.testing.assert_allclose(other.transform_image(), fit.transform_image(), atol=1e-4)
    assert other.distance_ == pytest.approx(fit.distance_ / 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_affine_maps_are_found(kind):
    angle, scale = 0.2, {"rigid": 1.0}.get(kind, 1.15)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if kind == "affine":
        matrix = matrix @ np.diag([1.0, 0.9])
    shift = np.array([2.0, -1.5])

    def draw(x):  # an ellipse with a bump, so that one map alone fits
        return blob(1.0, 0.5, grid=x) + 0.5 * blob(0.4, 0.4, (3.0, 2.0), grid=x)

    source, target = Image.of(draw(GRID)), Image.of(moved_by(draw, matrix, shift))
    with jax.enable_x64(True):
        found = align_images(source, target, kind)
    middle = np.full(2, (N - 1) / 2)
    np.testing.assert_allclose(found.matrix, matrix, atol=0.02)
    np.testing.assert_allclose(found(middle[None])[0], middle + shift, atol=0.1)


def regions(a=1.0, b=1.0, shift=(0.0, 0.0)):
    """Two labels, 5 around 2, as a map."""
    outer, inner = (blob(a, b, shift, radius) > 0.5 for radius in (9.0, 4.0))
    return Image.of(5 * outer - 3 * inner, labels=True)


def test_labels_meet(tmp_path):
    source, target = regions(), regions(1.25, 0.8)
    before = dice(source, target)
    found = Registration(4.0).fit(source, target)
    after = dice(found.transform_image(), target)
    assert found.converged_ and list(after) == [2.0, 5.0]
    assert max(before.values()) < 0.9 < 0.95 < min(after.values())
    assert set(np.unique(found.warped_source_.values)) == {0, 2, 5}
    found.save(tmp_path / "fit")
    back = load(tmp_path / "fit")
    assert back.source_.labels and dice(back.transform_image(), target) == after


def test_labels_say_what_the_image_does_not():
    """The image is the outer disc alone; its labels know the inner one."""
    source, target = Image.of(blob(radius=9.0)), Image.of(blob(radius=9.0))
    labels = (
        regions(),
        Image.of(
            5.0 * (blob(radius=9.0) > 0.5) - 3 * (blob(shift=(1.5, 0.0), radius=4.0) > 0.5),
            labels=True,
        ),
    )
    found = Registration(3.0).fit([source, labels[0]], [target, labels[1]])
    overlap = dice(found.transform_image(labels[0]), labels[1])
    assert overlap[2.0] > 0.93 > dice(*labels)[2.0]
    assert np.abs(found.transform_image() - target.values).max() < 0.3
    assert found.smallest_jacobian_ > 0


def test_labels_are_aligned_by_their_overlap():
    source, target = regions(), regions(shift=(2.0, -1.0))
    shift = align_images(source, target, "rigid").shift
    np.testing.assert_allclose(shift, [2.0, -1.0], atol=0.1)


@pytest.mark.parametrize(
    ("source", "target", "match"),
    [
        (regions(), Image.of(blob()), "a map of labels goes with another one"),
        (regions(), regions().with_values(9 * regions().values), "none in common"),
        ([Image.of(blob()), Image.of(blob()[:20])], [Image.of(blob())] * 2, "has the shape"),
        ([Image.of(blob())] * 2, [Image.of(blob()), Image.of(blob(), 2.0, [0, 0], np.eye(2))],
         "nothing says how they lie"),
        ([Image.of(blob(), 1.0, [0, 0], np.eye(2))] * 2,
         [Image.of(blob(), s, [0, 0], np.eye(2)) for s in (1.0, 2.0)],
         r"target\[1\]: images that are brought together at once lie on one grid"),
    ],
)  # fmt: skip
def test_labels_and_grids_that_do_not_go_together(source, target, match):
    with pytest.raises(ValueError, match=match):
        Registration(4.0).fit(source, target)


def test_values_are_no_labels():
    with pytest.raises(ValueError, match=r"784 different values, like .*, are no labels"):
        Image.of(np.random.default_rng(0).normal(size=(N, N)), labels=True)
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(1, 2\)"):
        dice(np.ones((2, 2)), np.ones((1, 2)))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_and_their_gradients(name):
    rng = np.random.default_rng(0)
    source, target = Image.of(rng.uniform(size=(8, 8))), Image.of(rng.uniform(size=(8, 8)))
    loss = Similarity.of(name, source, target)
    x, way, h = 0.05 + 0.9 * source.values.ravel(), rng.normal(size=64), 1e-7
    slope = np.asarray(jax.grad(lambda x: loss(x, 1.0))(x))
    ends = [float(loss(x + s * h * way, 1.0)) for s in (1, -1)]
    assert float(slope @ way) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-6)
    itself = Similarity.of(name, target, target)
    assert float(itself(target.values.ravel(), 1.0)) < float(loss(x, 1.0))
    # Brightness and contrast: seen by the square differences alone.
    other = Similarity.of(name, target.with_values(5 - 3 * target.values), target)
    away = float(other(5 - 3 * target.values.ravel(), 1.0))
    own = float(itself(target.values.ravel(), 1.0))
    assert away > own + 1 if name == "ssd" else away == pytest.approx(own, abs=0.05)


@pytest.mark.parametrize(
    ("similarity", "nu"),
    # Mutual information varies less, and needs a lower price.
    [("ncc", None), pytest.param("mi", 0.003, marks=pytest.mark.slow)],
)
def test_other_brightness_needs_another_similarity(similarity, nu):
    source, target = Image.of(blob()), Image.of(5 - 3 * blob(1.25, 0.8))
    found = Registration(4.0, nu=nu, similarity=similarity).fit(source, target)
    seen = 5 - 3 * found.transform_image()
    before = np.mean((5 - 3 * source.values - target.values) ** 2)
    assert np.mean((seen - target.values) ** 2) < 0.1 * before


def test_landmarks_help_the_image():
    """The image alone cannot know of a turn of the disc; landmarks can."""
    middle, angle = (N - 1) / 2, 0.4
    marks = middle + 5 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    goal = middle + (marks - middle) @ turn.T
    images = [Image.of(blob()), Image.of(blob(1.15, 0.9))]
    both = Registration(4.0).fit([images[0], marks], [images[1], goal])
    alone = Registration(4.0).fit(*images)
    gaps = [np.abs(f.transform_points(marks) - goal).max() for f in (both, alone)]
    assert gaps[0] < 0.15 and gaps[1] > 1.5
    assert both.residual_ < 0.1


def test_masked_pixels_do_not_count():
    target = blob(1.25, 0.8)
    target[:6] = np.nan
    mask = np.isfinite(target)
    fit = Registration(4.0).fit(Image.of(blob()), Image.of(target, mask=mask))
    rest = (fit.transform_image() - target)[mask]
    assert np.mean(rest**2) < 0.05 * np.mean((blob() - target)[mask] ** 2)


@pytest.mark.slow
def test_three_dimensions():
    grid = np.mgrid[:24, :24, :24] - 11.5
    draw = lambda a: 1 / (1 + np.exp(2 * (np.sqrt(  # noqa: E731
        (grid[0] / a) ** 2 + grid[1] ** 2 + (a * grid[2]) ** 2) - 6)))  # fmt: skip
    fit = Registration(5.0).fit(Image.of(draw(1.0)), Image.of(draw(1.2)))
    assert fit.residual_ < 0.05 and fit.smallest_jacobian_ > 0
    pixels = fit.target_.points()
    assert np.abs(fit.transform_points(fit.inverse(pixels)) - pixels).max() < 0.05


def test_saved_and_loaded(fit, tmp_path):
    fit.save(tmp_path / "warp.ideareg")
    again = load(tmp_path / "warp.ideareg")
    np.testing.assert_array_equal(again.transform_image(), fit.transform_image())
    assert again.smallest_jacobian_ == fit.smallest_jacobian_
    assert again.result_ is Result.converged
    points = Registration(nu=0.0, align="rigid", depth=4).fit(np.eye(3), np.eye(3) + 0.1)
    points.save(tmp_path / "points.ideareg")
    loaded = load(tmp_path / "points.ideareg")
    np.testing.assert_array_equal(
        loaded.transform_points(np.eye(3)), points.transform_points(np.eye(3))
    )


# ------------------------------------------------------------------ what is refused or said


def test_folding_is_said():
    """Stripes on blank paper at almost no price: more than neighbouring pixels can show."""
    rng = np.random.default_rng(0)
    source, target = (Image.of(rng.normal(size=(N, N))) for _ in range(2))
    fit = Registration(1.0, nu=1e-5).fit(source, target)
    assert fit.smallest_jacobian_ <= 0
    assert not fit.converged_
    assert fit.result_ is Result.folded and "Raise nu" in fit.result_.message


def test_determinants_of_a_reflection_are_negative():
    image = Image.of(blob())
    assert determinants(image, image.points() * [-1, 1]).max() == pytest.approx(-1)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (blob(), np.where(blob() > 0.5, np.nan, blob()), "NaN or infinite"),
        (blob(), np.ones((N, N)), "all values are the same"),
        (blob(), blob()[:4], "at least 8 pixels"),
        (blob(), blob()[:20], "nothing says how they lie"),
    ],
)
def test_what_is_no_pair_of_images(source, target, message):
    with pytest.raises(ValueError, match=message):
        Registration().fit(Image.of(source), Image.of(target))


def test_geometry_that_makes_no_sense():
    with pytest.raises(ValueError, match="resample one"):
        Registration().fit(Image.of(blob()), Image.of(blob(), spacing=2.0))
    with pytest.raises(ValueError, match="orthogonal"):
        Image.of(blob(), direction=[[1, 1], [0, 1]])
    with pytest.raises(ValueError, match="positive numbers"):
        Image.of(blob(), spacing=[1.0, 0.0])
    with pytest.raises(ValueError, match="the mask needs"):
        Image.of(blob(), mask=np.zeros((N, N)))


def test_parameters_that_make_no_sense():
    pair = Image.of(blob()), Image.of(blob(1.2))
    for options, message in [
        ({"nu": 0.0}, "nu > 0"),
        ({"kernel": ik.Laplacian() * ik.Gaussian()}, "translation-invariant"),
        ({"similarity": "mse"}, "similarity must be"),
        ({"align": "bent"}, "align must be"),
        ({"control_points": [[0.0, 0.0]]}, "number of nodes"),
    ]:
        with pytest.raises(ValueError, match=message):
            Registration(**options).fit(*pair)
    with pytest.raises(ValueError, match="an image goes with an image"):
        Registration().fit(pair[0], np.eye(2))
    with pytest.raises(ValueError, match="same length"):
        Registration().fit([pair[0], np.eye(2)], [pair[1]])
    with pytest.raises(ValueError, match="weights must be"):
        Registration(weights=[1.0, -1.0]).fit([pair[0], np.eye(2)], [pair[1], np.eye(2)])
    with pytest.raises(ValueError, match="start from rest"):
        Registration().fit(*pair, momentum=np.zeros((2, 2)))
