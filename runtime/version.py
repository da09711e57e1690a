"""The package's version, as installed or as the checkout says."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed distribution's version; "0+checkout" where none is installed."""
    try:
        return version("remuda")
    except PackageNotFoundError:
        return "0+checkout"
