"""Registration: the flow between two shapes, as points, curves or surfaces."""

from ideareg.registration.affine import Affine, align
from ideareg.registration.attachments import Attachment
from ideareg.registration.distances import Pairs, pairwise, procrustes
from ideareg.registration.registration import Registration
from ideareg.registration.shapes import Shape

__all__ = [
    "Affine",
    "Attachment",
    "Pairs",
    "Registration",
    "Shape",
    "align",
    "pairwise",
    "procrustes",
]
