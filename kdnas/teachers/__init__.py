"""Frozen models and what they said, kept on disk.

Imports `training` and below; knows no student.
"""
