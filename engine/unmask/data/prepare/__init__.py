"""From raw text to a token store: `prepare` reads, cleans, encodes in worker processes, and writes."""

from unmask.data.prepare.preparation import Progress, describe, prepare

__all__ = ["Progress", "describe", "prepare"]
