"""Several studies, one question: who goes on by the task's score, and one table at the end.

Imports `reports` and below; evaluates no trial itself, and knows no command and no screen.
"""
