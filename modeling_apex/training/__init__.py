"""
Training: songs to stored embeddings (`embed`), embeddings to heads (`train`), heads to results (`evaluate`).

Nothing here is shipped with a checkpoint, and nothing that scores songs imports it.
"""
