"""Run the command line: ``python -m medfinder.cli``."""

from medfinder.cli import main

main()
