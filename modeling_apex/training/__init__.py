"""
Training: stored embeddings, or songs, to models (`train`), and models to results (`evaluate`).

Each task has a folder, what tasks share lies beside them; nothing here is shipped with a checkpoint, and nothing that
scores songs imports it.
"""
