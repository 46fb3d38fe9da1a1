"""Benchmarks against peers, on data sets that a user brings."""
