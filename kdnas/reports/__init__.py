"""Pages and pictures of a study.

Imports `scores` and below; changes nothing.
"""
