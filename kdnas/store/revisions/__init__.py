"""Alembic's revisions of our tables, one file for each version: `version_N.py` brings version N-1 to N.

They only add tables and columns: SQLite copies a table to change more of it, and would lose rows that refer to it.
"""
