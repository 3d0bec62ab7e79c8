"""unmask for programs that are written for `transformers`. Needs `pip install unmask[transformers]`."""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(f"unmask.hf needs transformers ({error}); pip install unmask[transformers]") from None
