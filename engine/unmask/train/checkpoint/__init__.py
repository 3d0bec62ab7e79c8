"""Checkpoints: how they are written and verified, the state in them, and how a run resumes from one."""
