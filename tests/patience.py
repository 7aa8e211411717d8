"""How long a test waits for what must come: only a hang takes as long, whatever else this machine has to do."""

PATIENCE = 1200  # seconds
