"""Segments of a run: stretches of steps that read the data at one maximum length, each from a stream of its own.

BERT trains most steps on short pieces and the last ones on long pieces. The maximum length is part of a stream's
identity, so a change of length starts an explicit new segment with its own seed (else it would open with the
documents and masks that the segment before it opened with). A run without phases has one segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.config import Phase
from unmask.errors import ConfigError

__all__ = ["Segment", "plan_segments", "segment_of"]

# spreads the seeds of segments so that neighbouring seeds of users do not meet them
_SEED_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Steps [first, end) at `max_length` tokens a piece.

    Fields: number from 0; first, end steps; max_length in tokens, [CLS] and [SEP] included; seed of its stream.
    """

    number: int
    first: int
    end: int
    max_length: int
    seed: int


def plan_segments(steps: int, phases: Sequence[Phase], *, max_length: int, seed: int) -> list[Segment]:
    """Cut `steps` by the shares of the phases, rounded to whole steps; without phases, one segment at `max_length`.

    Raises:
        ConfigError: a phase is too small a share of the run for a single step.
    """
    phases = list(phases) or [Phase(share=1.0, max_length=max_length)]
    segments: list[Segment] = []
    passed = 0.0
    for number, phase in enumerate(phases):
        passed += phase.share
        first = segments[-1].end if segments else 0
        end = steps if number == len(phases) - 1 else round(passed * steps)
        if end <= first:
            raise ConfigError(
                f"config: train.phases.{number} has a share of {phase.share:g}, less than one of {steps} steps; raise "
                "its share or train.steps"
            )
        of_segment = (seed + number * _SEED_STRIDE) % 2**63
        segments.append(Segment(number=number, first=first, end=end, max_length=phase.max_length, seed=of_segment))
    return segments


def segment_of(segments: Sequence[Segment], step: int) -> Segment:
    """The segment in which the update number `step` (from 0) lies; past the end of the run, the last one."""
    return next((segment for segment in segments if step < segment.end), segments[-1])
