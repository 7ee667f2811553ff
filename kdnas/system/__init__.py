"""What any program needs: errors, files, folders, paths, locks, progress, seeds.

Imports no other room; knows no study, no database and no model.
"""
