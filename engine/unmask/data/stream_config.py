"""What a stream of micro-batches depends on besides the text: capacities, seed, masking, held-out share."""

from dataclasses import dataclass

from unmask.data.plan import Capacities
from unmask.errors import ConfigError

__all__ = ["StreamConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Capacities, randomness and masking of a stream; all of it is part of the stream's identity.

    Attributes:
        longest: tokens of a piece, [CLS] and [SEP] included (L), at least 3.
        tokens: tokens of a micro-batch (T). Default: 32 L.
        sequences: documents of a micro-batch (S). Default: T / 16, never short for pieces of 16 tokens or
            more.
        masked: masked tokens of a micro-batch (M). Default: the expected number and 1 % and 8 more, rounded
            up to a multiple of 16.
        seed: 64-bit seed of order and masks.
        mask_rate: share of a piece's tokens to predict.
        mask_split: shares of those that become [MASK], become a random token, stay.
        held_out_fraction: share of the documents kept for evaluation, chosen by the hash of their content.
    """

    longest: int
    tokens: int | None = None
    sequences: int | None = None
    masked: int | None = None
    seed: int = 0
    mask_rate: float = 0.15
    mask_split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    held_out_fraction: float = 0.01

    def capacities(self) -> Capacities:
        """Fill in the defaults; raises ConfigError where T, S or L cannot hold a piece."""
        longest = self.longest
        if longest < 3:
            raise ConfigError(f"stream: longest must be at least 3, for [CLS], a token and [SEP], got {longest}")
        tokens = 32 * longest if self.tokens is None else self.tokens
        if tokens < longest:
            raise ConfigError(f"stream: tokens must be at least longest ({longest}) to hold one piece, got {tokens}")
        if not 0 <= self.held_out_fraction < 1:
            raise ConfigError(f"stream: held_out_fraction must lie in [0, 1), got {self.held_out_fraction}")
        # A piece of 3 tokens alone in a micro-batch leaves the most room for inert documents.
        fewest = 1 + -(-(tokens - 3) // longest)
        sequences = max(fewest, tokens // 16) if self.sequences is None else self.sequences
        if sequences < fewest:
            raise ConfigError(
                f"stream: sequences must be at least {fewest}, a piece and the inert documents that fill up "
                f"{tokens} tokens, got {sequences}"
            )
        masked = self.masked
        if masked is None:
            masked = min(tokens, -(-int(1.01 * tokens * self.mask_rate + 8) // 16) * 16)
        return Capacities(tokens=tokens, sequences=sequences, masked=masked, longest=longest)
