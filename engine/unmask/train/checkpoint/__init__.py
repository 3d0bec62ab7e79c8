"""Checkpoints: writing and verifying them, the state they hold, and going on from one."""
