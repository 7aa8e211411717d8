"""
Random streams that depend on names alone, so that a song does not depend on who else is rendered, or when.

What comes in is a seed and a path of names (a song id, then the part of the song); what leaves is a NumPy generator.
Two parts of one song never share a stream: a factor that changes how many numbers one part draws cannot reach another.
"""

import hashlib

import numpy as np


def build_generator(seed: int, *names: str) -> np.random.Generator:
    """
    Build the random generator that belongs to a seed and a path of names, for example `"song", "a1b2", "drums"`.

    It is always the same for the same arguments, on every machine.
    """
    digest = hashlib.sha256("\x1f".join((str(seed), *names)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def build_identifier(seed: int, *names: str) -> str:
    """Build an identifier shaped like a UUID, 36 characters, from a seed and a path of names."""
    digits = hashlib.sha256("\x1f".join(("id", str(seed), *names)).encode()).hexdigest()[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
