"""Log rows and their numbers, the progress display, and the machine and versions of a run."""
