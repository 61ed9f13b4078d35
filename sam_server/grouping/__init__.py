"""Filters, groups and statistics of masks. Reads records, measures and overlaps; never the model."""
