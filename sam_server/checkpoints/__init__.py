"""Checkpoint files: what there is, how it comes here, how it is read. Only `load` needs torch."""
