"""The search spaces of the recipes' students.

Imports nothing of the recipes themselves.
"""
