"""A candidate becomes a model folder: the long distillation, the card, the upload, predictions and text.

Imports `search` and below; scores nothing on tasks.
"""
