"""Everything that reads what others wrote, fed with what is almost sound: `python -m benchmarks.fuzz`.

Each reader is declared once, in a file of its kind, and is fed through the command that uses it. What is wrong: an
error that is none of kdnas's own, more than a second of computing, a character on the terminal that nobody sees, a
refusal of more than its lines, and rows that are not those of the file.
"""
