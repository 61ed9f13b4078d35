"""SAM in PyTorch. `variants` needs no torch; every other module here does."""
