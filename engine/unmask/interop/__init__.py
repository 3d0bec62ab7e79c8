"""Bridges to other libraries' formats; the model files know nothing of them."""
