"""
Builders of the datasets that training and evaluation read: training songs, SongEval, Music Arena, FMA, and a synthetic
song world. One command runs them all: `python -m datasets_scripts.build --help`.
"""
