"""Kernels: the measure of similarity that shapes both the warp and the regressor after it."""

from ideareg.kernels.averaged import Averaged
from ideareg.kernels.base import (
    AbstractFeatureKernel,
    AbstractKernel,
    AbstractOperatorKernel,
    FunctionKernel,
    Kernel,
    Nugget,
    Product,
    Scaled,
    Sum,
    as_kernel,
)
from ideareg.kernels.equivariant import REM, equivariance_error
from ideareg.kernels.features import Activation, RandomFourier
from ideareg.kernels.matrix import (
    Diagonal,
    Isotropic,
    OperatorSum,
    Separable,
    as_operator,
    with_nugget,
)
from ideareg.kernels.scalar import (
    AbstractStationary,
    ArcCosine,
    Constant,
    Gaussian,
    Laplacian,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Polynomial,
    RationalQuadratic,
)

__all__ = [
    "REM",
    "AbstractFeatureKernel",
    "AbstractKernel",
    "AbstractOperatorKernel",
    "AbstractStationary",
    "Activation",
    "ArcCosine",
    "Averaged",
    "Constant",
    "Diagonal",
    "FunctionKernel",
    "Gaussian",
    "Isotropic",
    "Kernel",
    "Laplacian",
    "Linear",
    "Matern12",
    "Matern32",
    "Matern52",
    "Nugget",
    "OperatorSum",
    "Polynomial",
    "Product",
    "RandomFourier",
    "RationalQuadratic",
    "Scaled",
    "Separable",
    "Sum",
    "as_kernel",
    "as_operator",
    "equivariance_error",
    "with_nugget",
]
