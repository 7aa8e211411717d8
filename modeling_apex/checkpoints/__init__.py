"""Checkpoints: convert, export and verify them, with their licences and files."""
