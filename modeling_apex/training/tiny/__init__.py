"""The recipe of apex-tiny, the embedded demonstration model."""
