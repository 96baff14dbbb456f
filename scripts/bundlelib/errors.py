class PackageError(Exception):
    """What is missing or wrong, for the person who makes the bundle."""
