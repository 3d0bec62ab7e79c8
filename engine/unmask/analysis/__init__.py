"""What a corpus looks like after composition and masking, and where the attention of a model goes."""
