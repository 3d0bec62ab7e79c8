"""Formats of other libraries: Hugging Face model folders, read and written as names and tensors."""
