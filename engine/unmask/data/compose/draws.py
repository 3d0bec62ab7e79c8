"""A short sequence of random numbers that belongs to one document: SplitMix64 (Steele 2014) from 64 addressed bits.

Building pairs takes an unknown number of draws, one after the other. They come from a state that the document's
address alone gives (`Block.draws`), so that they do not depend on any other document. Cost: about 0.5 us a draw.
"""

__all__ = ["Draws"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


class Draws:
    """Random numbers from a 64-bit state."""

    def __init__(self, state: int) -> None:
        self._state = state
        self._bits, self._left = 0, 0

    def word(self) -> int:
        """64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK64
        x = self._state
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
        return x ^ (x >> 31)

    def below(self, n: int) -> int:
        """A whole number in [0, n), uniform within n / 2**64."""
        return self.word() * n >> 64

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.word() < p * 2.0**64

    def coin(self) -> bool:
        """True with probability 1/2; 64 coins take one word."""
        if not self._left:
            self._bits, self._left = self.word(), 64
        heads = self._bits & 1
        self._bits >>= 1
        self._left -= 1
        return heads == 1
