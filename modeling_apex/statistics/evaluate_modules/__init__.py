"""Metrics in the form that `evaluate.load` reads: each folder works alone, offline, by its path."""
