"""The command and the version: what a user meets first. Imports service.__main__ and training.__main__."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("nextclick")
except PackageNotFoundError:  # in an image, which has the code and is no installation of it
    __version__ = "unknown"
