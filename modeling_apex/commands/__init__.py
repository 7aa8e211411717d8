"""
The sub-commands of `apex-music`, one file each: `add_parser` declares it, `run` does it and returns the exit status.
"""
