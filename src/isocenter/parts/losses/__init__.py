"""Losses: each a function of scores and truth, with its equation and source."""
