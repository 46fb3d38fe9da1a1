"""Deep learning whose depth is physics: regressors after a Hamiltonian flow of their inputs."""

from importlib.metadata import version

from ideareg import kernels
from ideareg.blocks import Warp
from ideareg.estimators import WarpingRegressor
from ideareg.hamiltonian import Hamiltonian, State
from ideareg.integrators import get_integrator
from ideareg.persistence import ModelFileError, load
from ideareg.shooting import Trajectory, inverse_transport, shoot, transport

__version__ = version("ideareg")

__all__ = [
    "Hamiltonian",
    "ModelFileError",
    "State",
    "Trajectory",
    "Warp",
    "WarpingRegressor",
    "__version__",
    "get_integrator",
    "inverse_transport",
    "kernels",
    "load",
    "shoot",
    "transport",
]
