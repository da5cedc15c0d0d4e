"""The CNI entrypoint: what a container runtime executes, and what asks the daemon. `main.py` is all of it."""
