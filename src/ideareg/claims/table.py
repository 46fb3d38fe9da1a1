"""All claims, measured and shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ideareg import page
from ideareg.claims import equivariance, flows, formations, layers, learning, registration
from ideareg.claims.claim import Claim

Group = Callable[[], Iterator[Claim]]

CLAIMS: tuple[Group, ...] = (
    layers.least_action,
    layers.networks,
    layers.limit,
    layers.uniqueness,
    flows.closed_forms,
    flows.one_point,
    flows.invariants,
    flows.integrators,
    flows.features,
    learning.nugget,
    learning.robustness,
    learning.certificates,
    learning.sparsity,
    learning.warped_kernels,
    learning.random_layers,
    equivariance.equivariant_kernels,
    equivariance.augmentation,
    equivariance.convolutions,
    formations.jump_conditions,
    registration.landmarks,
    registration.mean_field,
    registration.camassa_holm,
)


def measure(groups: Sequence[Group] = CLAIMS) -> Iterator[Claim]:
    """Measure the claims, in float64, and yield a row for each.

    Parameters
    ----------
    groups : sequence of callables
        Those of ``CLAIMS`` to run.
    """
    for group in groups:
        with jax.enable_x64(True):
            rows = list(group())
        yield from rows


def table(rows: Sequence[Claim]) -> Any:
    """Return the claims as a rich table."""
    from rich.table import Table

    view = Table(box=None)
    for heading in ("theory", "claim"):
        view.add_column(heading)
    for heading in ("measured", "expected", "tolerance"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("", no_wrap=True)
    before = ""
    for row in rows:
        first, before = ("" if row.section == before else row.section), row.section
        numbers = (f"{row.measured:.6g}", f"{row.expected:.6g}", f"{row.tolerance:.0e}")
        view.add_row(first, row.claim, *numbers, "pass" if row.passed else "FAIL")
    return view


def write_claims(path: str | os.PathLike[str], rows: Sequence[Claim]) -> None:
    """Write the claims as one self-contained HTML page."""
    head = ("claim", "measured", "expected", "tolerance", "holds")
    sections = []
    for name in dict.fromkeys(row.section for row in rows):
        chosen = [row for row in rows if row.section == name]
        cells = [(r.claim, r.measured, r.expected, r.tolerance, r.passed) for r in chosen]
        sections.append(page.section(name, page.table(head, cells)))
    failed = sum(not row.passed for row in rows)
    notes = f"{len(rows)} claims, {failed} of which do not hold here."
    page.write_page(path, "The theory, measured", notes, sections)
