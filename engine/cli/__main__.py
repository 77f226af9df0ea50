"""`python -m engine.cli`: the command where its script is not installed."""

from engine.cli.main import command

command()
