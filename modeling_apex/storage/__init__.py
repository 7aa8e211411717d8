"""
What lies on disk: outputs that are whole or called something else, written by one run at a time; tables that are read.

Nothing else of this package is imported here, and no torch.
"""
