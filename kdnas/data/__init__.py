"""Text, labels, splits, tasks, and the models and texts that ship.

Imports `study` and below; knows no model, only its tokenizer.
"""
