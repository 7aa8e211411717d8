"""Metrics, ranks, intervals and tests: pure functions, which import nothing else of this package."""
