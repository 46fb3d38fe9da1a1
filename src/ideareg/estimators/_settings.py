"""Parameters of an estimator, checked by name and brought to their final types."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import jax
import numpy as np
from joblib import effective_n_jobs
from sklearn.base import is_classifier

from ideareg.assembly import Settings
from ideareg.integrators import INTEGRATORS, get_integrator
from ideareg.kernels import (
    AbstractKernel,
    Gaussian,
    Laplacian,
    Matern12,
    Matern32,
    Matern52,
    as_kernel,
)
from ideareg.local import LEAST_GAIN
from ideareg.pointwise import POINTWISE, EpsilonInsensitive

KERNELS: dict[str, type[AbstractKernel]] = {
    "gaussian": Gaussian,
    "matern12": Matern12,
    "matern32": Matern32,
    "matern52": Matern52,
    "laplacian": Laplacian,
}
HEADS = ("auto", "exact", "sparse")


def read_settings(model: Any) -> Settings:
    """Check the parameters of an estimator and return them in their final types."""
    folds = 2 if is_classifier(model) else 1
    least_counts = {"n_warps": 1, "n_folds": folds, "max_iter": 1, "depth": 0}
    for name, least in {**least_counts, "selection_rows": 10, "training_rows": 10}.items():
        check_integer(name, getattr(model, name), least)
    for name in ("nugget", "tol"):
        _check_real(name, getattr(model, name), least=0.0)
    _check_choice("integrator", model.integrator, tuple(INTEGRATORS))
    return Settings(
        **_read_warp(model),
        **(_read_class_head(model) if is_classifier(model) else _read_head(model)),
        integrator=get_integrator(model.integrator),
        depth=int(model.depth),
        nugget=float(model.nugget),
        learn_head=bool(model.learn_head),
        n_warps=int(model.n_warps),
        n_folds=int(model.n_folds),
        selection_rows=int(model.selection_rows),
        training_rows=int(model.training_rows),
        max_iter=int(model.max_iter),
        tol=float(model.tol),
    )


def _read_head(model: Any) -> dict[str, Any]:
    """Return what a regressor says of its head."""
    if model.n_inducing is not None:
        check_integer("n_inducing", model.n_inducing, 1)
    if model.noise is not None:
        _check_real("noise", model.noise, least=0.0, strict=True)
    _check_choice("head", model.head, HEADS)
    _check_choice("loss", model.loss, model._losses)
    if model.loss != "evidence" and model.learn_head:
        raise ValueError(
            f"loss={model.loss!r} cannot learn the head: without the volume term of the evidence "
            "its lengths and noise would degenerate. Set learn_head=False, or loss='evidence'."
        )
    by_evidence = model.loss == "evidence" and model.learn_head
    if model.local not in (True, False, "auto"):
        raise ValueError(f"local must be True, False or 'auto', got {model.local!r}.")
    if model.local is True and not by_evidence:
        raise ValueError("local=True needs loss='evidence' and learn_head=True.")
    if model.tails not in (True, False, "auto"):
        raise ValueError(f"tails must be True, False or 'auto', got {model.tails!r}.")
    if model.tails is True and not by_evidence:
        raise ValueError("tails=True needs loss='evidence' and learn_head=True.")
    if model.target_power not in (True, False, "auto"):
        raise ValueError(f"target_power must be True, False or 'auto', got {model.target_power!r}.")
    if model.target_power is True and not (model.standardize and model.loss == "evidence"):
        raise ValueError("target_power=True needs loss='evidence' and standardize=True.")
    loss: Any = model.loss
    if loss == "epsilon_insensitive":
        _check_real("epsilon", model.epsilon, least=0.0)
        _check_one_nu(model, "it has no predictive density to choose by")
        loss = EpsilonInsensitive(float(model.epsilon))
    return {
        "loss": loss,
        "n_inducing": None if model.n_inducing is None else int(model.n_inducing),
        "exact": {"auto": None, "exact": True, "sparse": False}[model.head],
        "noise": None if model.noise is None else float(model.noise),
        "bend": float(model.target_power is True),
        "local_gain": _local_gain(model.local) if by_evidence else None,
        "tails": model.tails if by_evidence else False,
        "workers": _workers(model.n_jobs),
    }


def _local_gain(local: bool | str) -> float | None:
    return {True: 0.0, False: None, "auto": LEAST_GAIN}[local]


def _workers(n_jobs: Any) -> int:
    """Return how many descents run at a time: an accelerator is kept busy by one."""
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral)):
        raise ValueError(f"n_jobs must be an integer or None, got {n_jobs!r}.")
    workers = effective_n_jobs(n_jobs)
    return int(workers) if jax.default_backend() == "cpu" else 1


def _read_class_head(model: Any) -> dict[str, Any]:
    """Return what a classifier says of its head."""
    _check_choice("loss", model.loss, model._losses)
    if model.ridge is not None:
        _check_real("ridge", model.ridge, least=0.0, strict=True)
    if not model.learn_head:
        _check_one_nu(model, "learn_head=False fits one warp with one head")
    elif model.ridge is not None:
        raise ValueError("ridge is chosen where learn_head=True: leave it None, or do not learn.")
    elif isinstance(model.n_control_points, str):
        raise ValueError("n_control_points='rows' needs learn_head=False: it is for the theory.")
    return {
        "loss": POINTWISE[model.loss](),
        "n_inducing": None,
        "exact": True,
        "noise": None if model.ridge is None else float(model.ridge),
    }


def _check_one_nu(model: Any, why: str) -> None:
    if np.size(model.nu) != 1 or np.size(model.n_control_points) != 1:
        raise ValueError(
            f"loss={model.loss!r} takes one nu and one n_control_points, for {why}; "
            f"got nu={model.nu!r}, n_control_points={model.n_control_points!r}."
        )


def _read_warp(model: Any) -> dict[str, Any]:
    """Return what an estimator says of its warp, and the kernel after it."""
    nu = tuple(np.atleast_1d(np.asarray(model.nu)).tolist())
    if not nu:
        raise ValueError("nu must be a positive number or several, got none.")
    for value in nu:
        _check_real("nu", value, least=0.0, strict=True, finite=False)
    by_rows = isinstance(model.n_control_points, str)
    if by_rows:
        _check_choice("n_control_points", model.n_control_points, ("rows",))
    counts: tuple[int, ...] = ()
    if not by_rows and model.n_control_points is not None:
        counts = tuple(np.atleast_1d(model.n_control_points).tolist())
    for value in counts:
        check_integer("n_control_points", value, 1)
    named = isinstance(model.kernel, str) and isinstance(model.warp_kernel, str)
    kernel = _kernel("kernel", model.kernel)
    if not isinstance(kernel, AbstractKernel):
        raise TypeError("kernel: the regressor needs a scalar kernel, got an operator-valued one.")
    return {
        "kernel": kernel,
        "warp_kernel": _kernel("warp_kernel", model.warp_kernel),
        "nu": tuple(map(float, nu)),
        "n_control_points": counts,
        "control_rows": by_rows,
        "pad_columns": named,
    }


def _kernel(name: str, value: Any) -> Any:
    if isinstance(value, str):
        _check_choice(name, value, tuple(KERNELS))
        return KERNELS[value]()
    # A kernel made outside the float64 scope may hold float32 numbers.
    return jax.tree.map(lambda a: np.asarray(a, dtype=np.float64), as_kernel(value))


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Refuse what is no integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def _check_real(
    name: str, value: Any, *, least: float, strict: bool = False, finite: bool = True
) -> None:
    good = not isinstance(value, bool) and isinstance(value, Real) and not np.isnan(float(value))
    good = good and (value > least if strict else value >= least)
    if not good or (finite and not np.isfinite(value)):
        raise ValueError(
            f"{name} must be a {'positive' if strict else 'non-negative'} number, got {value!r}."
        )
