"""
The sub-commands of `apex-music`, one file each: what they say of themselves, the arguments that `add_arguments`
declares, and `run`, which does it and returns the exit status.
"""
