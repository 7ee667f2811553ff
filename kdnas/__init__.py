"""kdnas finds the student language model that a latency budget deserves."""

__version__ = "0.1.0"
