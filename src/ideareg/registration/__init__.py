"""Registration: the flow between two shapes or images."""

from ideareg.registration.affine import Affine, align
from ideareg.registration.alignment import align_images
from ideareg.registration.attachments import Attachment
from ideareg.registration.distances import Pairs, pairwise, procrustes
from ideareg.registration.images import Image
from ideareg.registration.paralleltransport import parallel_transport
from ideareg.registration.pictures import dice
from ideareg.registration.population import Atlas, Modes, atlas
from ideareg.registration.registration import Registration
from ideareg.registration.shapes import Shape
from ideareg.registration.similarity import Overlap, Similarity

__all__ = [
    "Affine",
    "Atlas",
    "Attachment",
    "Image",
    "Modes",
    "Overlap",
    "Pairs",
    "Registration",
    "Shape",
    "Similarity",
    "align",
    "align_images",
    "atlas",
    "dice",
    "pairwise",
    "parallel_transport",
    "procrustes",
]
