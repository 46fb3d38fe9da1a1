r"""How much two images differ, from 0 (alike) to about 1 (nothing in common).

* ``"ssd"``: :math:`\langle(I-J)^2\rangle/\mathrm{Var}\,J`, for images of the same modality;
* ``"ncc"``: :math:`1 - r^2` with the correlation r, which does not see brightness and contrast;
* ``"mi"``: 1 less the mutual information as a share of the target's entropy, from a histogram with
  linear bins, for images of different modalities [1]_. It varies less than the others, so that a
  tenth of the price nu suits it.

Maps of labels are compared by `Overlap`.

References
----------
.. [1] Viola, Wells, "Alignment by maximization of mutual information", International Journal of
   Computer Vision 24, 1997.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ideareg._types import Scalar
from ideareg.registration.images import Image

SIMILARITIES = ("ssd", "ncc", "mi")

BINS = 24
TINY = 1e-12


class Similarity(eqx.Module):
    """The mismatch with a target.

    Attributes
    ----------
    name : {"ssd", "ncc", "mi"}
    target : Array, shape (n,)
    weight : Array, shape (n,)
        1 for pixels that count, 0 for others.
    ranges : Array, shape (2, 2)
        Smallest and largest value of source and target.

    Examples
    --------
    >>> ramp = Image.of(np.linspace(0, 1, 64).reshape(8, 8))
    >>> turned = np.asarray(ramp.values.ravel()[::-1])
    >>> losses = [Similarity.of(name, ramp, ramp) for name in ("ssd", "ncc")]
    >>> [round(abs(float(loss(turned, 1.0))), 2) for loss in losses]
    [4.0, 0.0]
    """

    name: str = eqx.field(static=True)
    target: Any
    weight: Any
    ranges: Any

    @classmethod
    def of(cls, name: str, source: Image, target: Image, dtype: Any = float) -> Similarity:
        """Return the mismatch of images warped to the grid of ``target``.

        Raises
        ------
        ValueError
            If ``name`` is none of the three.
        """
        if name not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {name!r}.")
        weight = np.ones(target.shape) if target.mask is None else target.mask
        ranges = [[image.values.min(), image.values.max()] for image in (source, target)]
        return cls(
            name, np.asarray(target.values.ravel(), dtype), np.asarray(weight.ravel(), dtype),
            np.asarray(ranges, dtype),
        )  # fmt: skip

    def __call__(self, warped: Float[Array, "..."], weight: Any) -> Scalar:
        """Return the mismatch.

        Parameters
        ----------
        warped : Array, shape (n,) or (1, n)
            Values of the warped source at the target's pixels.
        weight : Array, shape (n,), or 1
            Whether they come from pixels of the source that count.
        """
        w = self.weight * weight
        w = w / (w.sum() + TINY)
        x, y = jnp.ravel(warped), jnp.asarray(self.target)
        if self.name == "mi":
            return self._information(x, y, w)
        spread = jnp.vdot(w, (y - jnp.vdot(w, y)) ** 2) + TINY
        if self.name == "ssd":
            return jnp.vdot(w, (x - y) ** 2) / spread
        a, b = x - jnp.vdot(w, x), y - jnp.vdot(w, y)
        return 1 - jnp.vdot(w, a * b) ** 2 / (spread * (jnp.vdot(w, a * a) + TINY))

    def _information(self, x: Array, y: Array, w: Array) -> Scalar:
        joint = _bins(x, self.ranges[0]).T @ (w[:, None] * _bins(y, self.ranges[1]))
        one, other = joint.sum(1), joint.sum(0)
        entropy = -(other * jnp.log(other + TINY)).sum()
        shared = (joint * jnp.log((joint + TINY) / (one[:, None] * other + TINY))).sum()
        return 1 - shared / entropy


class Overlap(eqx.Module):
    r"""How little the regions of two maps of labels overlap, all regions alike.

    .. math:: 1 - \frac1C\sum_{c=1}^C\frac{2\langle a_c, b_c\rangle}{|a_c|^2 + |b_c|^2}

    with the indicators a and b of each label: one less the mean Dice coefficient, softened where
    pixels are cut.

    Attributes
    ----------
    target : Array, shape (C, n)
    weight : Array, shape (n,)

    Examples
    --------
    >>> halves = Image.of(np.repeat([[1], [2]], 4, axis=0) * np.ones((8, 8)), labels=True)
    >>> loss = Overlap.of([halves.region(1), halves.region(2)])
    >>> same, swapped = loss.target, loss.target[::-1]
    >>> [round(float(loss(regions, 1.0)), 6) for regions in (same, swapped)]
    [0.0, 1.0]
    """

    target: Any
    weight: Any

    @classmethod
    def of(cls, regions: Sequence[Image], dtype: Any = float) -> Overlap:
        """Return the mismatch with the indicators of regions, all on one grid."""
        first = regions[0]
        weight = np.ones(first.shape) if first.mask is None else first.mask
        target = np.stack([region.values.ravel() for region in regions])
        return cls(np.asarray(target, dtype), np.asarray(weight.ravel(), dtype))

    def __call__(self, warped: Float[Array, "C n"], weight: Any) -> Scalar:
        """Return the mismatch of indicators at the target's pixels."""
        w = self.weight * weight
        shared = (w * warped * self.target).sum(1)
        sizes = (w * (warped**2 + self.target**2)).sum(1)
        return 1 - (2 * shared / (sizes + TINY)).mean()


def _bins(x: Array, limits: Any) -> Array:
    """Return the share of each value in each bin, shape (n, BINS), which is piecewise linear."""
    low, high = limits
    place = (x - low) / (high - low + TINY) * (BINS - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(BINS, dtype=x.dtype)), 0)
