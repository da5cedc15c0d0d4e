"""One file a driver; pure: what a network and its endpoints need of the kernel, as values."""
