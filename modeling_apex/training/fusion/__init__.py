"""Training and judging the spectrogram-fusion model."""
