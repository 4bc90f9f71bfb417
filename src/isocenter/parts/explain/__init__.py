"""Which parts of an image a classifier's score rests on, and whether a map of them can be trusted."""
