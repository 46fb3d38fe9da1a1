r"""The claims of the theory, each measured on this machine against what it says.

A claim is a number with a known answer: a closed form, a rate, an identity between two ways to
compute one thing. `measure` runs them all; ``ideareg check`` prints them.
"""

from ideareg.claims.claim import Claim
from ideareg.claims.table import CLAIMS, measure, table, write_claims

__all__ = ["CLAIMS", "Claim", "measure", "table", "write_claims"]
