"""Every mask of a picture: point grid, crops, tiles, scoring, duplicates."""
