"""Devices, the latency protocol, the lock under which it measures, and metrics of predictions.

Imports `models` and below; knows no recipe and no store.
"""
