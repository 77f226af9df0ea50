"""The build writes the version here."""

VERSION = "0"
