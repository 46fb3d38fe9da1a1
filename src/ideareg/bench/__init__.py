"""Benchmarks against peers, on data sets that a user brings."""

from ideareg.bench.classify import CLASSIFY
from ideareg.bench.dropout import DROPOUT
from ideareg.bench.images import IMAGES
from ideareg.bench.registration import REGISTRATION
from ideareg.bench.suite import Suite
from ideareg.bench.uci import UCI, UCI_GAP

__all__ = ["CLASSIFY", "DROPOUT", "IMAGES", "REGISTRATION", "UCI", "UCI_GAP", "Suite"]
