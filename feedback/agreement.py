"""Agreement between raters: the share of pairs that say the same, and Krippendorff's alpha, which takes
chance into account (Krippendorff 2011, nominal data, any number of raters and of missing answers)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """`compared` items have several answers; of their pairs, `share` agree. `alpha` is 1 for full agreement
    and 0 for chance. None where nothing can be said: no item has two answers, or all say the same."""

    compared: int
    share: float | None
    alpha: float | None


def agreement(items: Sequence[Sequence[str]]) -> Agreement:
    """Returns the agreement on items, each of which has the answers of its raters."""
    compared = [answers for answers in items if len(answers) > 1]
    if not compared:
        return Agreement(0, None, None)
    total: Counter[str] = Counter()
    disagreeing, pairs, observed = 0, 0, 0.0
    for answers in compared:
        counts = Counter(answers)
        total.update(counts)
        of_item = len(answers) * (len(answers) - 1)
        differ = of_item - sum(count * (count - 1) for count in counts.values())
        observed += differ / (len(answers) - 1)
        disagreeing, pairs = disagreeing + differ, pairs + of_item
    count = total.total()
    expected = count * (count - 1) - sum(each * (each - 1) for each in total.values())
    alpha = None if expected == 0 else 1 - (count - 1) * observed / expected
    return Agreement(len(compared), 1 - disagreeing / pairs, alpha)
