"""Training heads on stored embeddings."""
