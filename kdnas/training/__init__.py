"""Losses, the training loop, checkpoints.

Imports `measuring` and below; knows no teacher and no recipe.
"""
