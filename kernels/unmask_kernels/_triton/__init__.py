"""Device functions and launch rules shared by the Triton backends; imported by them only."""
