"""`python -m kdnas_tui` is `kdnas-tui`."""

from kdnas_tui.app import main

main()
