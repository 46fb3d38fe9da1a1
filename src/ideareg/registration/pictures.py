"""What a map of space does to the mismatch of two images, or of two maps of labels."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float
from sklearn.metrics import f1_score

from ideareg._types import Scalar
from ideareg.registration.affine import Affine
from ideareg.registration.images import Image
from ideareg.registration.similarity import Overlap, Similarity


class Picture(eqx.Module):
    """The mismatch of a target with a source that is pulled back.

    Attributes
    ----------
    source : Array, shape (C, n_1, ..., n_d)
        One channel; of labels one for each.
    inside : Array or None
        The source's mask.
    to_index : Affine
        From places to indices of the source.
    loss : Similarity or Overlap
    """

    source: Any
    inside: Any
    to_index: Affine
    loss: Any

    @classmethod
    def of(
        cls, similarity: str, source: Image, target: Image, into: Affine, factor: int = 1,
        dtype: Any = float,
    ) -> Picture:  # fmt: skip
        """Return the mismatch of two images at a resolution.

        Parameters
        ----------
        similarity : {"ssd", "ncc", "mi"}
            Of values; maps of labels are compared by their overlap.
        source, target : Image
        into : Affine
            From places to the space of the source.
        factor : int
            See `Image.coarser`.
        dtype : dtype
        """
        if target.labels:
            names = label_names(source, target)
            sources, targets = (
                [image.region(name).coarser(factor) for name in names] for image in (source, target)
            )
            loss: Any = Overlap.of(targets, dtype)
        else:
            sources, goal = [source.coarser(factor)], target.coarser(factor)
            loss = Similarity.of(similarity, sources[0], goal, dtype)
        coarse = sources[0]
        linear = (coarse.direction.T @ into.matrix) / coarse.spacing[:, None]
        shift = coarse.direction.T @ (into.shift - coarse.origin) / coarse.spacing
        return cls(
            np.stack([np.asarray(image.values, dtype) for image in sources]),
            None if coarse.mask is None else np.asarray(coarse.mask, dtype),
            Affine(np.asarray(linear, dtype), np.asarray(shift, dtype)),
            loss,
        )

    def __call__(self, places: Float[Array, "d n"]) -> Scalar:
        """Return the mismatch of the source, seen at these places, with the target."""
        index = list(self.to_index.matrix @ places + self.to_index.shift[:, None])
        warped = jnp.stack([_at(channel, index) for channel in jnp.asarray(self.source)])
        return self.loss(warped, 1.0 if self.inside is None else _at(self.inside, index))


def _at(values: Array, index: list[Array]) -> Array:
    return map_coordinates(values, index, order=1, mode="nearest")


def label_names(source: Image, target: Image) -> list[float]:
    """Return the labels of either map where pixels count; 0 is none.

    Raises
    ------
    ValueError
        If they have none in common.
    """
    found = [set(np.unique(image.counted).tolist()) - {0.0} for image in (source, target)]
    if not found[0] & found[1]:
        raise ValueError(
            f"labels: source has {sorted(found[0])} and target {sorted(found[1])}, none in common."
        )
    return sorted(found[0] | found[1])


def dice(source: Any, target: Any) -> dict[float, float]:
    r"""Return the overlap of each label in two maps on one grid, 1 where they are the same.

    .. math:: 2|A\cap B|/(|A|+|B|)

    Parameters
    ----------
    source, target : array or Image
        0 is no label.

    Returns
    -------
    dict
        Label -> coefficient, in the order of the labels.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dice([[1, 1, 0], [2, 0, 0]], [[1, 0, 0], [2, 0, 0]])
    {1.0: 0.6666666666666666, 2.0: 1.0}
    """
    maps = [
        image.values if isinstance(image, Image) else np.asarray(image)
        for image in (source, target)
    ]
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f"maps of labels need one grid, got the shapes {maps[0].shape} and {maps[1].shape}."
        )
    names = np.setdiff1d(maps, 0)
    if not len(names):
        return {}
    # Of a class, the F1 score is the Dice coefficient.
    scores = f1_score(maps[1].ravel(), maps[0].ravel(), labels=names, average=None)
    return dict(zip(names.astype(float).tolist(), scores.tolist(), strict=True))
