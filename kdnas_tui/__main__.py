"""`python -m kdnas_tui` is `kdnas-tui`."""

from kdnas_tui.main import main

main()
