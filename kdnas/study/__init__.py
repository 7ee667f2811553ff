"""What was asked and what counts: spec, space, reward, ranking, filter, rows, export.

Pure and light: imports only `system`; no torch, no Optuna, no database.
"""
