r"""Snelson's one-dimensional set, with a hole: the spread grows where nothing was seen.

.. code-block:: console

    $ python examples/plot_snelson1d.py --data DIR --out figures

DIR holds ``sci_snelson1d.npz``: X and y, 200 rows (Snelson and Ghahramani 2006). It is drawn as
`plot_motorcycle` draws its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the example beside this one

from plot_motorcycle import run


def main(arguments: list[str] | None = None) -> None:
    """Fit, print and draw."""
    run(arguments, "Snelson's set", "sci_snelson1d", (2.5, 4.0), ("x", "y"))


if __name__ == "__main__":
    main()
