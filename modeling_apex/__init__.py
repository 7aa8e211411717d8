"""APEX for the Hugging Face ecosystem: popularity and aesthetic scores of AI-generated songs, from audio alone."""

__version__ = "0.1.0"
