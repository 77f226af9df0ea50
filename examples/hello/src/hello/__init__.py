"""A small program to be put into an image."""
