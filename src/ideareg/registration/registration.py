r"""The object that people meet: fit a flow between two shapes, then move anything through it.

.. math:: \min_{p_0}\ \nu H(q_0, p_0) + \ell(q(1)),\qquad
          H = \tfrac12p^T\Gamma(q,q)p,\quad q(0)=\text{source}.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from numpy.typing import NDArray

from ideareg._numerics import scoped
from ideareg._rows import centres
from ideareg._types import Result
from ideareg.integrators import AbstractIntegrator, get_integrator
from ideareg.kernels import AbstractKernel, Gaussian, Kernel, Matern52, as_kernel
from ideareg.kernels.base import Scaled, Sum
from ideareg.kernels.scalar import AbstractStationary
from ideareg.leastaction import Distance
from ideareg.registration.affine import Affine, align
from ideareg.registration.alignment import align_images
from ideareg.registration.attachments import Attachment
from ideareg.registration.descent import Problem, descend
from ideareg.registration.flows import GridFlow, PointFlow
from ideareg.registration.images import determinants
from ideareg.registration.imaging import Domain, Rider, fit_images
from ideareg.registration.landmarks import match
from ideareg.registration.parts import Parts, as_parts
from ideareg.registration.pictures import Picture
from ideareg.registration.saving import parameters, restore
from ideareg.registration.shapes import Shape
from ideareg.registration.transforms import Transform

Floats = NDArray[np.float64]

# More points than this are moved by the momentum of that many centres.
CONTROL_POINTS = 300
# A flow whose energy drifts by more than this share has steps too long to be trusted: points may
# have jumped over each other.
LARGEST_DRIFT = 0.25
# Price of the action by default, and the kernel's length for images as a share of their radius.
SHAPE_NU, IMAGE_NU, IMAGE_SHARE = 0.01, 0.03, 0.1
# Length of the attachment's kernel by default, as a share of the target's radius.
ATTACHMENT_SHARE = 0.2


class Registration(Transform):
    r"""Align a source shape or image to a target by a diffeomorphism of the whole space.

    Landmarks correspond one by one; curves, surfaces and images need not. The map is an affine
    one, if asked for, followed by the flow of one initial momentum. It *pushes forward*: points of
    the source go to where the target is; an image is pulled back by the inverse, so that what is
    seen in it goes the same way.

    Parameters
    ----------
    kernel : kernel, number, sequence of numbers, or None
        Γ of the flow. A number is the length of a Matern kernel of smoothness 5/2, in the units of
        the points; several numbers are the sum of one each, a multiscale kernel; None is the
        source's radius (root mean square distance from its centroid), a tenth of a target image's.
    nu : float or None
        Price of the action against the mismatch: for landmarks the sum of square distances; for
        curves and surfaces the square dual norm between the shapes relative to the target's, for
        images their ``similarity``, either times the target's radius squared. 0 matches landmarks
        exactly. None is 0.01, with images 0.03.
    align : {"rigid", "similarity", "affine"} or None
        The affine map before the flow: for landmarks in closed form, for images by a descent from
        equal centres.
    attachment : {"varifold", "current"}
        How curves and surfaces are compared: without or with orientation.
    attachment_kernel : kernel, number or None
        Kernel between centres of cells; a number is the length of a Gaussian, None a fifth of the
        target's radius. Details smaller than that are not seen.
    control_points : int, array of shape (c, d), or None
        Where the momentum of curves and surfaces sits: that many centres of the source's points, or
        those given; None is every point, up to 300. With images the momentum sits on a grid, and an
        integer is the number of its nodes along the longest axis; None suits the kernel.
    depth : int
        Number of time steps.
    integrator : str
        See `ideareg.get_integrator`; for shapes. Momentum on a grid moves by the midpoint rule.
    max_iter : int
        Bound on the iterations of the descent for curves and surfaces, and at each resolution of
        images.
    tol : float or None
        For landmarks, the largest gap in the boundary condition, relative to the target's extent
        or the largest displacement (None: 1e-8); otherwise the fall of the objective, relative to
        its start, at which the descent ends (None: 1e-5, for images 3e-4).
    dtype : {"float64", "float32"} or None
        Of the descent for curves, surfaces and images; None is float32 for images alone. What is
        reported, and the maps, are in float64.
    similarity : {"ssd", "ncc", "mi"}
        How images are compared: by square differences, which need one modality; by correlation,
        which does not see brightness and contrast; or by mutual information. See
        `ideareg.registration.Similarity`. Maps of labels, `Image.of(values, labels=True)`, are
        compared by how their regions overlap.
    weights : sequence of float or None
        Of the mismatches of several parts, in their order; None is 1 for each.

    Attributes
    ----------
    momentum_ : ndarray, shape (c, d)
        Initial momentum, the whole model of the flow.
    control_points_ : ndarray, shape (c, d)
        Where it sits: after the affine map, before the flow.
    affine_ : Affine
    kernel_ : kernel
    distance_ : float
        Length of the flow, :math:`\sqrt{2H}`, in the units of the points: a distance of the shapes
        if landmarks are matched exactly.
    residual_ : float
        Mismatch that is left, as a share of that after the affine map; of the first image, if there
        is one.
    energy_drift_ : float
        Range of the energy along the flow, as a share of the first; above a quarter the time steps
        are too long, and the fit does not count as converged.
    gap_ : float
        How far from stationary, see ``tol``.
    result_ : Result
        How the search ended, with a remedy.
    converged_ : bool
    n_iter_ : int
    flow_ : PointFlow or GridFlow
        The flow itself.
    smallest_jacobian_ : float
        For images: the smallest determinant of the pull-back between neighbouring pixels of the
        target. If it is not positive the map folds there, and the fit does not count as converged.
    source_, target_ : Shape or Image
        The source, a shape after the affine map; the target of images.
    warped_source_ : Shape or Image
        The source at the end of the flow; an image on the grid of the target.

    Examples
    --------
    >>> import numpy as np
    >>> triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> bent = np.array([[0.0, 0.0], [1.2, 0.1], [0.1, 0.8]])
    >>> fit = Registration(nu=0.0).fit(triangle, bent)
    >>> bool(fit.converged_), bool(np.abs(fit.transform_points(triangle) - bent).max() < 1e-8)
    (True, True)

    Images, with two landmarks to help; axis 0 of points is axis 0 of arrays:

    >>> from ideareg.registration import Image
    >>> x, y = np.mgrid[:32, :32] - 15.5
    >>> disc, oval = (1 / (1 + np.exp(x**2 + a * y**2 - 64)) for a in (1.0, 0.6))
    >>> source, target = [Image.of(disc), [[15.5, 7.5]]], [Image.of(oval), [[15.5, 5.2]]]
    >>> fit = Registration(5.0).fit(source, target)
    >>> bool(fit.residual_ < 0.05), bool(fit.smallest_jacobian_ > 0)
    (True, True)
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        nu: float | None = None,
        align: str | None = None,
        attachment: str = "varifold",
        attachment_kernel: Any = None,
        control_points: Any = None,
        depth: int = 10,
        integrator: str = "rk4",
        max_iter: int = 200,
        tol: float | None = None,
        dtype: str | None = None,
        similarity: str = "ssd",
        weights: Sequence[float] | None = None,
    ) -> None:
        self.kernel = kernel
        self.nu = nu
        self.align = align
        self.attachment = attachment
        self.attachment_kernel = attachment_kernel
        self.control_points = control_points
        self.depth = depth
        self.integrator = integrator
        self.max_iter = max_iter
        self.tol = tol
        self.dtype = dtype
        self.similarity = similarity
        self.weights = weights

    @scoped
    def fit(self, source: Any, target: Any, *, momentum: Any = None) -> Registration:
        """Find the flow that pushes ``source`` forward to ``target``.

        Parameters
        ----------
        source, target : array of shape (n, d), pair (points, cells), Shape, Image, or list
            Landmarks, of the same number; or curves (cells of shape (m, 2)) or surfaces (m, 3) with
            any numbers of points; or images, of values or of labels. Lists hold images on one grid
            each, and landmarks, curves or surfaces in the same space, which are brought together
            by one flow; the map before it is that of the first image.
        momentum : array of shape (c, d), optional
            First guess, for shapes. Where several flows are minimal, it says which.

        Returns
        -------
        Registration
            Itself.

        Raises
        ------
        ValueError
            If the shapes are empty, not finite, degenerate or do not go together, if nothing says
            how two images lie to each other, or a parameter is not what it can be.
        """
        for name in ("target_", "smallest_jacobian_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        parts = as_parts(source, target, self.weights)
        if parts.images:
            self._check_images(momentum)
            return self._warp(parts)
        start, goal = parts.shapes[0]
        self._check(start)
        self.affine_ = Affine.identity(start.dimension)
        if self.align is not None:
            self.affine_ = align(start.points, goal.points, self.align)
            start = start.moved(self.affine_(start.points))
        self.kernel_ = _flow_kernel(self.kernel, start.radius)
        guess = None if momentum is None else np.asarray(momentum, dtype=np.float64)
        if start.cells is None:
            self._match(start, goal, guess)
        else:
            self._descend(start, goal, guess)
        return self

    @classmethod
    def from_state(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Registration:
        """Rebuild what `save` wrote, for `ideareg.load`."""
        return restore(cls(**parameters(header)), header, arrays)

    def _match(self, start: Shape, goal: Shape, guess: Floats | None) -> None:
        X, Y = start.points, goal.points
        self.control_points_ = X
        tol = 1e-8 if self.tol is None else self.tol
        scheme = self._scheme()
        found = match(
            self.kernel_, X, Y, self.nu_, self.depth, scheme, momentum=_shaped(guess, X), tol=tol
        )
        self._keep(start, Distance(Y), found)

    def _descend(self, start: Shape, goal: Shape, guess: Floats | None) -> None:
        dtype = self.dtype or "float64"
        points = start.points.astype(dtype)
        control = self._controls(start).astype(dtype)
        itself = control.shape == points.shape and np.array_equal(control, points)
        kernel = _attachment_kernel(self.attachment_kernel, goal)
        loss = Attachment.between(start, goal, self.attachment, kernel, dtype)
        problem = Problem(
            self.kernel_, control, None if itself else points, loss,
            np.asarray(self.nu_, dtype), self.depth, self._scheme(),
        )  # fmt: skip
        tol = 1e-5 if self.tol is None else self.tol
        guess = _shaped(guess, control)
        found = descend(problem, momentum=guess, max_iter=self.max_iter, tol=tol)
        self.control_points_ = control.astype(np.float64)
        self._keep(start, loss, found)

    def _warp(self, parts: Parts) -> Registration:
        """Register images, and the shapes beside them."""
        source, target = parts.images[0]
        count = len(parts.images)
        self.affine_ = Affine.identity(source.dimension)
        if self.align is not None:
            self.affine_ = align_images(source, target, self.align, self.similarity)
        self.kernel_ = _flow_kernel(self.kernel, IMAGE_SHARE * target.radius)
        if not _stationary(self.kernel_):
            raise ValueError(
                f"kernel: images need a translation-invariant scalar kernel, got {self.kernel_}."
            )
        domain = Domain.around(target, self.kernel_)
        dtype = self.dtype or "float32"
        beside = zip(parts.shapes, parts.weights[count:], strict=True)
        riders = [self._rider(pair, domain, weight, dtype) for pair, weight in beside]
        found = fit_images(
            parts.images, self.affine_, self.kernel_, nu=self.nu_, similarity=self.similarity,
            weights=parts.weights[:count], domain=domain, nodes=self.control_points, riders=riders,
            depth=self.depth, max_iter=self.max_iter, dtype=dtype,
            tol=3e-4 if self.tol is None else self.tol,
        )  # fmt: skip
        momentum = found.momentum @ domain.frame.matrix.T
        self.flow_ = GridFlow(found.box, domain.frame, momentum, self.depth)
        self.momentum_, self.control_points_ = momentum, self.flow_.control_points
        self.gap_, self.n_iter_, self.result_ = found.gap, max(found.iterations, 1), found.result
        self.source_, self.target_ = source, target
        there = self.flow_.backward(target.points())
        picture = Picture.of(self.similarity, source, target, self.affine_.inverse())
        before, after = (float(_loss(picture, x.T)) for x in (target.points(), there))
        self.residual_ = after / before if before else 0.0
        places = self.affine_.inverse()(there)
        self.warped_source_ = target.with_values(source.at(places))
        self.smallest_jacobian_ = float(determinants(target, places).min())
        self._judge(bool(np.isfinite(there).all()))
        return self

    def _rider(self, pair: tuple[Shape, Shape], domain: Domain, weight: float, dtype: str) -> Rider:
        """Return what a shape beside an image asks of the flow, in the coordinates of the box."""
        into = domain.frame.inverse()
        start, goal = pair[0].moved(into(self.affine_(pair[0].points))), pair[1]
        goal = goal.moved(into(goal.points))
        loss: Any = Distance(goal.points.astype(dtype))
        if start.cells is not None:
            kernel = _attachment_kernel(self.attachment_kernel, goal)
            loss = Attachment.between(start, goal, self.attachment, kernel, dtype)
        return Rider(start.points.astype(dtype), loss, np.asarray(weight, dtype))

    def _keep(self, start: Shape, loss: Any, found: Any) -> None:
        """Store what was found."""
        self.flow_ = PointFlow(
            self.kernel_, self.control_points_, found.momentum, self.depth, self._scheme()
        )
        self.momentum_, self.gap_ = found.momentum, found.gap
        self.n_iter_, self.result_ = max(found.iterations, 1), found.result
        moved = self.flow_.forward(start.points)
        before, after = (float(_loss(loss, x)) for x in (start.points, moved))
        self.residual_ = max(after, 0.0) / before if before else 0.0
        self.warped_source_, self.source_ = start.moved(moved), start
        self._judge(bool(np.isfinite(moved).all()))

    def _judge(self, finite: bool) -> None:
        """Say whether the fit can be trusted."""
        energies = self.flow_.energies()
        self.distance_ = float(np.sqrt(2 * energies[0]))
        self.energy_drift_ = float(np.ptp(energies) / energies[0]) if energies[0] else 0.0
        if not finite:
            self.result_ = Result.not_finite
        elif getattr(self, "smallest_jacobian_", 1.0) <= 0:
            self.result_ = Result.folded
        elif self.energy_drift_ > LARGEST_DRIFT:
            self.result_ = Result.max_steps
        self.converged_ = self.result_ is Result.converged

    # ------------------------------------------------------------ inside

    def _check_numbers(self, nu_by_default: float) -> None:
        nu: Any = nu_by_default if self.nu is None else self.nu
        depth: Any = self.depth
        if not (isinstance(nu, numbers.Real) and 0 <= float(nu) < math.inf):
            raise ValueError(f"nu must be a finite number >= 0, got {self.nu!r}.")
        if not (isinstance(depth, int | np.integer) and depth >= 1):
            raise ValueError(f"depth must be a number of time steps >= 1, got {self.depth!r}.")
        if self.dtype not in (None, "float64", "float32"):
            raise ValueError(f"dtype must be float64 or float32, got {self.dtype!r}.")
        self.nu_ = float(nu)
        self._scheme()

    def _check_images(self, momentum: Any) -> None:
        self._check_numbers(IMAGE_NU)
        nodes = self.control_points
        if self.nu_ == 0:
            raise ValueError("nu=0 matches landmarks exactly; images need nu > 0.")
        if momentum is not None:
            raise ValueError("momentum: images start from rest; leave it out.")
        if nodes is not None and not (isinstance(nodes, int | np.integer) and nodes >= 8):
            raise ValueError(
                "control_points: with images the number of nodes along the longest axis, at least "
                f"8, got {nodes!r}."
            )

    def _check(self, start: Shape) -> None:
        self._check_numbers(SHAPE_NU)
        if start.cells is None:
            if self.control_points is not None:
                raise ValueError(
                    "control_points: the momentum of landmarks sits on the landmarks; leave it out."
                )
            return
        if self.nu_ == 0:
            raise ValueError("nu=0 matches landmarks exactly; a curve or surface needs nu > 0.")
        if self.align is not None:
            raise ValueError(
                "align needs points that correspond: align some landmarks of the two shapes with "
                "ideareg.registration.align, and move the source by the map before fit."
            )

    def _controls(self, start: Shape) -> Floats:
        X, wanted = start.points, self.control_points
        if wanted is None or isinstance(wanted, numbers.Integral):
            count = CONTROL_POINTS if wanted is None else int(wanted)
            if count < 1:
                raise ValueError(f"control_points must be at least 1, got {count}.")
            return X if len(X) <= count else centres(X, np.ones(len(X)), count, seed=0)
        control = Shape.of(wanted, name="control_points").points
        if control.shape[1] != start.dimension:
            raise ValueError(
                f"control_points have {control.shape[1]} coordinates, the shapes {start.dimension}."
            )
        return control

    def _scheme(self) -> AbstractIntegrator:
        return get_integrator(self.integrator)


@eqx.filter_jit
def _loss(loss: Any, q: Any) -> Any:
    return loss(q)


def _stationary(kernel: Any) -> bool:
    if isinstance(kernel, Sum):
        return _stationary(kernel.left) and _stationary(kernel.right)
    if isinstance(kernel, Scaled):
        return _stationary(kernel.kernel)
    return isinstance(kernel, AbstractStationary)


def _shaped(guess: Floats | None, control: Floats) -> Floats | None:
    if guess is not None and guess.shape != control.shape:
        raise ValueError(f"momentum has the shape {guess.shape}, expected {control.shape}.")
    return guess


def _flow_kernel(kernel: Any, length: float) -> Kernel:
    """Return Γ from what the user may give, or with a length by default."""
    if kernel is None:
        if length == 0:
            raise ValueError("kernel: all points of the source coincide; give a length.")
        return Matern52(length)
    if isinstance(kernel, numbers.Real):
        return Matern52(float(kernel))
    if isinstance(kernel, Sequence | np.ndarray):
        lengths = [float(length) for length in kernel]
        if not lengths:
            raise ValueError("kernel: give at least one length.")
        parts = [(1 / len(lengths)) * Matern52(length) for length in lengths]
        return sum(parts[1:], start=parts[0])
    return as_kernel(kernel)


def _attachment_kernel(kernel: Any, goal: Shape) -> AbstractKernel:
    if kernel is None or isinstance(kernel, numbers.Real):
        return Gaussian(ATTACHMENT_SHARE * goal.radius if kernel is None else float(kernel))
    scalar = as_kernel(kernel)
    if not isinstance(scalar, AbstractKernel):
        raise TypeError("attachment_kernel must be a scalar kernel or a length.")
    return scalar
