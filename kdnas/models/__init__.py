"""Networks and the surgery on them: families, cutting, initialising, opening, exporting.

Imports `data` and below; knows no teacher and trains nothing.
"""
