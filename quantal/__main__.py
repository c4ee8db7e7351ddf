"""`python -m quantal`: the same as the command `quantal`."""

from quantal.export.cli.main import main

main()
