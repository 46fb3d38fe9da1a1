"""Deep learning whose depth is physics: regressors after a Hamiltonian flow of their inputs.

Names are loaded when they are first used, so that ``import ideareg`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ideareg import kernels
    from ideareg.blocks import Warp
    from ideareg.estimators import (
        HeteroscedasticRegressor,
        REMClassifier,
        REMRegressor,
        WarpingClassifier,
        WarpingRegressor,
        nugget_path,
        sample_posterior,
    )
    from ideareg.formation import Flow, Formation, Map
    from ideareg.forming import form
    from ideareg.hamiltonian import Hamiltonian, State
    from ideareg.integrators import get_integrator
    from ideareg.leastaction import LeastAction
    from ideareg.limit import depth_study
    from ideareg.persistence import ModelFileError, load
    from ideareg.registration import Registration
    from ideareg.shooting import Trajectory, inverse_transport, shoot, transport

__version__ = "0.1.0"

__all__ = [
    "Flow",
    "Formation",
    "Hamiltonian",
    "HeteroscedasticRegressor",
    "LeastAction",
    "Map",
    "ModelFileError",
    "REMClassifier",
    "REMRegressor",
    "Registration",
    "State",
    "Trajectory",
    "Warp",
    "WarpingClassifier",
    "WarpingRegressor",
    "audit_resnet",
    "depth_study",
    "form",
    "get_integrator",
    "inverse_transport",
    "kernels",
    "load",
    "nugget_path",
    "sample_posterior",
    "shoot",
    "to_resnet",
    "transport",
]

_HOMES = {
    "Flow": "formation",
    "Formation": "formation",
    "Hamiltonian": "hamiltonian",
    "HeteroscedasticRegressor": "estimators",
    "LeastAction": "leastaction",
    "Map": "formation",
    "ModelFileError": "persistence",
    "REMClassifier": "estimators",
    "REMRegressor": "estimators",
    "Registration": "registration",
    "State": "hamiltonian",
    "Trajectory": "shooting",
    "Warp": "blocks",
    "WarpingClassifier": "estimators",
    "WarpingRegressor": "estimators",
    "audit_resnet": "audit",
    "depth_study": "limit",
    "form": "forming",
    "get_integrator": "integrators",
    "inverse_transport": "shooting",
    "load": "persistence",
    "nugget_path": "estimators",
    "sample_posterior": "estimators",
    "shoot": "shooting",
    "to_resnet": "export",
    "transport": "shooting",
}


def __getattr__(name: str) -> Any:
    if name == "kernels":
        return import_module("ideareg.kernels")
    if name not in _HOMES:
        raise AttributeError(f"module 'ideareg' has no attribute {name!r}")
    value = getattr(import_module(f"ideareg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
