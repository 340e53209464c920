"""When a score may drop work: conformal p-values against candidates known to be right (ATTS, with the +1 that makes it exact).

With n known-right scores that are exchangeable with a right candidate's, P(dropped | right) <= alpha, whatever the scores mean.
Adaptive search breaks exchangeability a little: so only few are dropped, and nothing is ever accepted by a score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

ALPHA = 0.1


def p_value(score: float, right: Sequence[float]) -> float:
    """The share of known-right scores, this one counted, that are no higher."""
    return (1 + sum(s <= score for s in right)) / (len(right) + 1)


def drops(score: float, right: Sequence[float], alpha: float = ALPHA) -> bool:
    """Whether the candidate need not be tried. Never with too few known-right scores to tell at this level."""
    return p_value(score, right) <= alpha


def score(opinions: Mapping[str, float]) -> float | None:
    """One figure for several probabilities: their product; None where nobody had an opinion."""
    return math.prod(opinions.values()) if opinions else None
