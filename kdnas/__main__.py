"""`python -m kdnas` is the command `kdnas`."""

from kdnas.cli import main

main()
