"""`python -m tinyddpm`: the command line."""

from tinyddpm.cli import main

main(prog_name="tinyddpm")
