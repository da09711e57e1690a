"""The commands of `python -m runtime.ctl`: each reads its options and asks a running service."""
