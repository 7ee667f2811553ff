"""The one database that holds studies, trials, workers and logs.

Imports `study` and `system`; knows no model, no recipe and no strategy.
"""
