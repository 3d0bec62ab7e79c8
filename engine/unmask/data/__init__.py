"""Text in, packed token batches out: corpus readers, tokenizer, token store, and the stream over it."""
