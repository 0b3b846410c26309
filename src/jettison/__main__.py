"""`python -m jettison` is the command `jettison`."""

from .cli import main

main()
