"""`python -m netd`, for whoever has an interpreter and not its scripts."""

from netd.cli.main import main

main()
