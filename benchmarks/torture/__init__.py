"""What goes wrong on shared machines, tried on purpose with the real program: `python -m benchmarks.torture`.

One file for each kind of trouble, each a list of faults. A fault is tried again and again with the next seed, until the
time is over; the table says how often it was survived, and the seeds that repeat whatever was lost.
"""
