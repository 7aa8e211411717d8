"""
From a song to its report: flat files, which are also the remote code of an exported model.

They import nothing else of this package, and each other only as remote code can.
"""
