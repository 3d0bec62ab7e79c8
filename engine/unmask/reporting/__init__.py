"""What a run shows of itself afterwards: its curves, and the page of a report."""
