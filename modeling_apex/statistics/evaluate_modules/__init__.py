"""Metrics in the form that `evaluate.load` reads by the path of a folder, offline; `statistics` has the maths."""
