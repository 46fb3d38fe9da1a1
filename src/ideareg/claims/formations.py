"""Claims on formations: how momenta pass from block to block."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from ideareg import kernels as ik
from ideareg.claims.claim import Claim, row
from ideareg.formation import Flow, Formation, Map
from ideareg.forming import form


def jump_conditions() -> Iterator[Claim]:
    """From the plane to the line to numbers, a warp before each map."""
    rng = np.random.default_rng(5)
    X, Y = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))
    blocks = [
        Flow(ik.Gaussian(), 0.5, 0.1, 4),
        Map(ik.Gaussian(1.2), 0.3, 0.2, dim=1),
        Flow(ik.Gaussian(0.9), 0.6, 0.1, 4),
        Map(ik.Gaussian(1.1), 0.2, 0.2),
    ]
    still = [jnp.repeat(z[None], 4, 0) for z in (X, X[:, :1])]
    formed = form(Formation(blocks), X, Y, start=(still[0], X[:, :1], still[1], Y))
    yield row("formations", "νp jumps by ∇f from block to block", max(formed.jumps()), 0, 1e-7)
