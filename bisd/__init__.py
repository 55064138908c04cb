"""bisd delivers webhooks straight out of PostgreSQL."""

from importlib.metadata import version

__version__ = version("bisd")
