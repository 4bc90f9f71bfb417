"""Stated, seeded damage to clean images, and datasets of damaged images with the clean ones as targets.

A damage is physics with its numbers; the same seed and case give the same damage, so that every method is
asked the same question.
"""
