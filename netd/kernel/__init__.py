"""The only room that talks to the kernel; `ports` is what the rest of the house sees of it."""
