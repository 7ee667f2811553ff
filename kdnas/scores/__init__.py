"""How good a model folder is: tasks, labels, perplexity, latency.

Imports `students` and below; trains only what a task asks for.
"""
