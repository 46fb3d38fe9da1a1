r"""A population of shapes: its mean, how each shape differs from it, and along which modes.

With the momenta :math:`p_i` of the geodesics from the template T to the shapes,

.. math:: F(T) = \frac1m\sum_i\min_{p_i}\ \nu H(T, p_i) + \ell_i(q_i(1)),\qquad
          \nabla F(T) = -\frac\nu m\sum_ip_i,

and :math:`F = \frac1{2m}\sum_id(T, Y_i)^2` where landmarks are matched exactly (ν = 0, its
gradient that with ν = 1). So the template moves along the geodesic of the mean momentum, until that
vanishes [1]_. Momenta at one template are vectors of one space, with the inner product
:math:`\langle p, p'\rangle = p^T\Gamma(T, T)p'`: its principal components are geodesics [2]_.

References
----------
.. [1] Joshi, Davis, Jomier, Gerig, "Unbiased diffeomorphic atlas construction for computational
   anatomy", NeuroImage 23, 2004.
.. [2] Vaillant, Miller, Younes, Trouve, "Statistics on diffeomorphisms via tangent space
   representations", NeuroImage 23, 2004.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import clone
from sklearn.utils.extmath import svd_flip

from ideareg._numerics import numerics, scoped
from ideareg._types import Result
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import AbstractIntegrator, get_integrator
from ideareg.kernels import Kernel
from ideareg.registration.attachments import Attachment
from ideareg.registration.flows import PointFlow
from ideareg.registration.landmarks import match, match_each
from ideareg.registration.paths import columns, gram
from ideareg.registration.registration import Registration, _attachment_kernel, _flow_kernel
from ideareg.registration.shapes import Shape, as_shape, check_pair
from ideareg.shooting import shoot

Floats = NDArray[np.float64]

# Up to so many coordinates of landmarks the template moves by Newton's method.
LARGEST_NEWTON = 300
# It begins when the mean momentum is this share of the distances.
NEWTON_GAP = 0.25
# A step of the template is halved at most so often before the search gives up.
HALVINGS = 6
# A rise of the objective by less than this share is the rounding of the matchings.
RISE = 1e-6


class Modes(NamedTuple):
    """Principal geodesics: orthogonal directions in which the shapes differ from the template.

    Attributes
    ----------
    template : Shape
    directions : ndarray, shape (k, n, d)
        Momenta of unit norm in the metric of Γ at the template, orthogonal to each other.
    scores : ndarray, shape (m, k)
        How far each shape lies along each, in the units of the points: with all modes, the square
        scores of a shape add up to its square distance.
    deviation : ndarray, shape (k,)
        Root mean square scores.
    explained : ndarray, shape (k,)
        Share of the mean square distance from the template.
    flow : PointFlow
        How to shoot.
    """

    template: Shape
    directions: Floats
    scores: Floats
    deviation: Floats
    explained: Floats
    flow: PointFlow

    @scoped
    def shape_at(self, scores: Any) -> Shape:
        """Return the shape that is reached from the template with these scores.

        Parameters
        ----------
        scores : array, shape (j,)
            Of the first j modes; those left out are 0.

        Returns
        -------
        Shape

        Raises
        ------
        ValueError
            If there are more scores than modes.
        """
        steps = np.atleast_1d(np.asarray(scores, dtype=np.float64))
        if steps.ndim != 1 or len(steps) > len(self.directions):
            raise ValueError(
                f"scores: at most {len(self.directions)} numbers, one a mode, got the shape "
                f"{steps.shape}."
            )
        momentum = np.tensordot(steps, self.directions[: len(steps)], axes=1)
        flow = self.flow._replace(momentum=momentum)
        return self.template.moved(flow.forward(self.template.points))

    @scoped
    def project(self, momentum: Any) -> Floats:
        """Return the scores of momenta at the template, of shapes that were not in the population.

        Parameters
        ----------
        momentum : array, shape (n, d) or (j, n, d)

        Returns
        -------
        ndarray, shape (k,) or (j, k)
        """
        p = np.asarray(momentum, dtype=np.float64)
        return (
            _whitened(self.flow.kernel, self.template.points, p)
            @ _whitened(self.flow.kernel, self.template.points, self.directions).T
        )


class Atlas(NamedTuple):
    """A template and the geodesics from it to each shape of a population.

    Attributes
    ----------
    template : Shape
    fits : tuple of Registration
        From the template to each shape.
    gap : float
        Norm of the mean momentum in the metric of Γ, as a share of the root mean square distance:
        the momenta are centred when it is 0.
    history : ndarray, shape (k,)
        The objective at each template on the way.
    result : Result
    """

    template: Shape
    fits: tuple[Registration, ...]
    gap: float
    history: Floats
    result: Result

    @property
    def converged(self) -> bool:
        """Whether the gap is within the tolerance, and every geodesic can be trusted."""
        return self.result is Result.converged

    @property
    def momentum(self) -> Floats:
        """Initial momenta from the template to each shape, shape (m, n, d)."""
        return np.stack([fit.momentum_ for fit in self.fits])

    @property
    def distance(self) -> Floats:
        """Lengths of the geodesics, shape (m,)."""
        return np.array([fit.distance_ for fit in self.fits])

    def match(self, shape: Any) -> Registration:
        """Return the registration of the template to a shape, as those of the population."""
        return clone(self.fits[0]).fit(self.template, shape)

    @scoped
    def modes(self, n_components: int | None = None) -> Modes:
        """Return the principal geodesics of the population.

        Parameters
        ----------
        n_components : int, optional
            As many as there can be, by default: the smaller of the number of shapes and of
            coordinates.

        Returns
        -------
        Modes
            Ordered by how much they explain. They are taken about the template, whose momenta
            have no mean.

        Raises
        ------
        ValueError
            If there cannot be so many, or all shapes are the template.
        """
        kernel, T = self.fits[0].kernel_, self.template.points
        z = _whitened(kernel, T, self.momentum)
        most = min(z.shape)
        k = most if n_components is None else n_components
        if not 1 <= k <= most:
            raise ValueError(f"n_components must be between 1 and {most}, got {n_components}.")
        U, s, V = np.linalg.svd(z, full_matrices=False)
        U, V = svd_flip(U, V, u_based_decision=False)
        if s[0] == 0:
            raise ValueError("all shapes are the template: there is no direction in which to go.")
        whitening = _whitening(kernel, T)
        directions = [
            solve_triangular(whitening.T, columns(kernel, v.reshape(T.shape))) for v in V[:k]
        ]
        return Modes(
            self.template, np.stack(directions).reshape(k, *T.shape), (U * s)[:, :k],
            s[:k] / math.sqrt(len(z)), s[:k] ** 2 / (s**2).sum(), self.fits[0].flow_,
        )  # fmt: skip


def _whitening(kernel: Kernel, X: Floats) -> Floats:
    """Return C with C Cᵀ = Γ(X, X)."""
    return cholesky(np.asarray(gram(kernel, X)), lower=True)


def _whitened(kernel: Kernel, X: Floats, momenta: Floats) -> Floats:
    """Return momenta (..., n, d) at X as vectors (..., n d) whose dot product is that of Γ."""
    C = _whitening(kernel, X)
    flat = [(C.T @ columns(kernel, p)).ravel() for p in momenta.reshape(-1, *X.shape)]
    return np.stack(flat).reshape(*momenta.shape[:-2], X.size)


@scoped
def atlas(
    shapes: Sequence[Any],
    registration: Registration | None = None,
    *,
    template: Any = None,
    tol: float = 1e-4,
    max_iter: int = 50,
    n_jobs: int | None = None,
) -> Atlas:
    """Return the mean of shapes, and the geodesics from it to each of them.

    Matching to all shapes and moving the template along their mean momentum take turns. The
    template of curves and surfaces stays a diffeomorphic image of the first guess.

    Parameters
    ----------
    shapes : sequence of array (n, d), pair (points, cells) or Shape
        All landmarks of one number, or curves, or surfaces, as they are: see `procrustes` to turn
        landmarks to each other first. Curves or surfaces with as many cells as each other share
        compiled functions; every other number costs a compilation.
    registration : Registration, optional
        The settings of each matching; ``Registration(nu=0.0)`` by default, which is exact, for
        landmarks, and ``Registration()`` for the others. A kernel's length by default comes from
        the first guess of the template. Momentum sits on all points of the template.
    template : shape, optional
        First guess; the mean of landmarks by default, the first of curves or surfaces. There, a
        few hundred points are plenty.
    tol : float
        The search ends when the norm of the mean momentum is this share of the root mean square
        distance. The descents for curves and surfaces end earlier than the exact matching of
        landmarks; 0.01 is what they can give.
    max_iter : int
        Bound on the number of templates that are tried.
    n_jobs : int, optional
        Threads, as in joblib.

    Returns
    -------
    Atlas

    Raises
    ------
    ValueError
        If there are fewer than two shapes, if they are not of one kind, or if the registration
        asks for an affine map or for control points: the template has neither.

    Examples
    --------
    >>> triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> found = atlas([triangle * [1.0, s] for s in (0.8, 1.0, 1.25)])
    >>> found.converged, found.modes().explained.round(2).tolist()
    (True, [1.0, 0.0, 0.0])
    """
    goals = [as_shape(shape, f"shapes[{i}]") for i, shape in enumerate(shapes)]
    if len(goals) < 2:
        raise ValueError(f"an atlas needs at least two shapes, got {len(goals)}.")
    mean = _first(goals) if template is None else as_shape(template, "template")
    for goal in goals:
        check_pair(mean, goal)
    settings = _settings(registration, mean)
    meet = _meet_landmarks if mean.cells is None else _meet_meshes
    mean, met, gap, history, stopped = _search(
        mean, lambda *at: meet(settings, goals, n_jobs, *at), settings, tol, max_iter
    )
    fits = met.fits
    if fits is None:
        fits = _each(n_jobs, lambda *pair: _fit(settings, mean, *pair), goals, met.momentum)
    result = stopped
    if gap <= tol:
        result = max(fit.result_ for fit in fits)
    return Atlas(mean, tuple(fits), gap, history, result)


def _first(goals: list[Shape]) -> Shape:
    if goals[0].cells is not None:
        return goals[0]
    for goal in goals:
        check_pair(goals[0], goal)
    return goals[0].moved(np.mean([goal.points for goal in goals], axis=0))


def _settings(registration: Registration | None, mean: Shape) -> Registration:
    """Return what every matching shares: one kernel, and momentum at the template's points."""
    if registration is None:
        registration = Registration(nu=0.0 if mean.cells is None else None)
    if registration.align is not None:
        raise ValueError(
            "registration.align: an atlas has one template for all; bring the shapes together "
            "first, with ideareg.registration.procrustes or align, and leave it None."
        )
    if registration.control_points is not None:
        raise ValueError(
            "registration.control_points: the momentum of an atlas sits on its template; give a "
            "template of fewer points instead."
        )
    settings = clone(registration).set_params(kernel=_flow_kernel(registration.kernel, mean.radius))
    settings._check(mean)
    return settings


class _Met(NamedTuple):
    """A template matched to all shapes."""

    momentum: Floats  # (m, n, d)
    value: float  # the objective
    slopes: Floats | None  # derivatives of the momenta by the template, (m, n d, n d)
    fits: list[Registration] | None  # where they were made on the way


def _each(n_jobs: int | None, one: Any, *per_shape: Any) -> list[Any]:
    jobs = (delayed(one)(*given) for given in zip(*per_shape, strict=True))
    return list(Parallel(n_jobs=n_jobs, prefer="threads")(jobs))


def _fit(settings: Registration, mean: Shape, goal: Shape, guess: Any = None) -> Registration:
    fit = clone(settings)
    if mean.cells is not None:
        fit.set_params(control_points=mean.points)
    return fit.fit(mean, goal, momentum=guess)


def _meet_landmarks(
    settings: Registration, goals: list[Shape], n_jobs: int | None, mean: Shape, guesses: Any
) -> _Met:
    kernel, nu, X = settings.kernel, settings.nu_, mean.points
    depth, scheme = settings.depth, get_integrator(settings.integrator)
    tol: Any = {} if settings.tol is None else {"tol": settings.tol}
    Y = np.stack([goal.points for goal in goals])

    def one(goal: Shape) -> Floats:
        with numerics():  # a thread has settings of its own
            return match(kernel, X, goal.points, nu, depth, scheme, **tol).momentum

    momenta, slopes = guesses, None
    found = np.full(len(Y), guesses is not None)
    for _ in range(2):
        if not found.all():
            missing = np.flatnonzero(~found)
            momenta = np.zeros(Y.shape) if momenta is None else momenta.copy()
            momenta[missing] = _each(n_jobs, one, [goals[i] for i in missing])
        if X.size > LARGEST_NEWTON:
            break
        momenta, found, slopes = match_each(kernel, X, Y, nu, depth, scheme, momenta, **tol)
        if found.all():
            break
    ends, energies = map(np.asarray, _ends(kernel, X, momenta, depth, scheme))
    values = energies if nu == 0 else nu * energies + ((ends - Y) ** 2).sum(axis=(1, 2))
    return _Met(momenta, float(values.mean()), slopes, None)


@eqx.filter_jit
def _ends(
    kernel: Kernel, X: Any, momenta: Any, depth: int, scheme: AbstractIntegrator
) -> tuple[Array, Array]:
    def one(p: Array) -> tuple[Array, Array]:
        path = shoot(Hamiltonian(kernel), State(X, p), depth, scheme)
        return path.q[-1], path.energies[0]

    return jax.lax.map(one, momenta)


def _meet_meshes(
    settings: Registration, goals: list[Shape], n_jobs: int | None, mean: Shape, guesses: Any
) -> _Met:
    def one(goal: Shape, guess: Any) -> tuple[Registration, float]:
        fit = _fit(settings, mean, goal, guess)
        with numerics():
            kernel = _attachment_kernel(fit.attachment_kernel, goal)
            loss = Attachment.between(mean, goal, fit.attachment, kernel)
            miss = float(loss(fit.warped_source_.points))
        return fit, fit.nu_ * fit.distance_**2 / 2 + miss

    fits, values = zip(
        *_each(n_jobs, one, goals, [None] * len(goals) if guesses is None else guesses), strict=True
    )
    return _Met(np.stack([fit.momentum_ for fit in fits]), float(np.mean(values)), None, list(fits))


def _search(
    mean: Shape, meet: Any, settings: Registration, tol: float, max_iter: int
) -> tuple[Shape, _Met, float, Floats, Result]:
    """Move the template until the mean momentum vanishes, and never uphill."""
    met, step, stopped = meet(mean, None), 1.0, Result.max_steps
    history, gap = [met.value], _gap(settings.kernel, mean, met.momentum)
    try:
        while gap > tol and len(history) < max_iter and step >= 0.5**HALVINGS:
            moved, guesses = _moved(settings, mean, met, step, gap)
            tried = meet(moved, guesses)
            if not tried.value <= (1 + RISE) * met.value:
                step /= 2
                continue
            mean, met, step = moved, tried, min(1.0, 2 * step)
            history.append(met.value)
            gap = _gap(settings.kernel, mean, met.momentum)
    except KeyboardInterrupt:
        stopped = Result.interrupted
    return mean, met, gap, np.array(history), stopped


def _moved(
    settings: Registration, mean: Shape, met: _Met, step: float, gap: float
) -> tuple[Shape, Floats]:
    """Return the next template, and first guesses of the momenta there."""
    drift, slopes = met.momentum.mean(axis=0), met.slopes
    if slopes is not None and gap < NEWTON_GAP:
        way = -step * np.linalg.solve(slopes.mean(axis=0), drift.ravel())
        if way @ drift.ravel() > 0:  # downhill, and not NaN
            moved = mean.moved(mean.points + way.reshape(drift.shape))
            return moved, met.momentum + (slopes @ way).reshape(met.momentum.shape)
    scheme = get_integrator(settings.integrator)
    flow = PointFlow(settings.kernel, mean.points, step * drift, settings.depth, scheme)
    return mean.moved(flow.forward(mean.points)), met.momentum - step * drift


def _gap(kernel: Kernel, mean: Shape, momentum: Floats) -> float:
    """Return the norm of the mean momentum as a share of the root mean square distance."""
    z = _whitened(kernel, mean.points, momentum)
    spread = math.sqrt((z**2).sum(axis=1).mean())
    return float(np.linalg.norm(z.mean(axis=0))) / spread if spread else 0.0
