"""What the program says."""


def greeting(name: str, version: str) -> str:
    """A line for `name`, who may be nobody."""
    return f"Hello, {name.strip() or 'whoever you are'}! This is hello {version}."
