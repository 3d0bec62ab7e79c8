"""Extractive question answering: windows over a context, and answers from the scores of their tokens."""
