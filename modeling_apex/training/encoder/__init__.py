"""Training the encoder together with its heads."""
