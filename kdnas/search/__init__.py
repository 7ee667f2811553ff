"""The loop and its processes: beginning a study, claiming slots, evaluating candidates.

Imports `store`, `strategies`, `recipes` and below; writes no model folder.
"""
