"""
Builders of the datasets that training and evaluation read: training songs, SongEval, Music Arena, FMA, and a synthetic
song world. One command runs them all: `python -m datasets_scripts.build --help`.
"""

from importlib.util import find_spec

_NEEDED_MODULES = ("datasets", "pyarrow", "scipy")

_missing = [name for name in _NEEDED_MODULES if find_spec(name) is None]
if _missing:
    raise ImportError(f'datasets_scripts needs {", ".join(_missing)}: pip install "apex-music[data]".')
