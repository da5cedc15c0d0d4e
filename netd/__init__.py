"""netd: a container network daemon for Linux. `docs/architecture.md` is the map of the house."""

__version__ = "0.1.0"
