"""How much personal data is redacted, and how much else: recall and precision on the generated corpus.

    python -m tests.bench.redaction [--seed 0] [--each 100] [--show 0]

Recall is the share of the personal data of which nothing is left but separators; precision the share of what
was redacted that is personal data. The aims are 0.95 and 0.90.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from feedback.personal_data import Found, PersonalDataFinder
from schemas.settings import RedactionSettings
from tests.personal_corpus import KINDS, Message, corpus

RECALL, PRECISION = 0.95, 0.90


class Score:
    """Counts over a corpus, by kind."""

    def __init__(self) -> None:
        self.there, self.found = Counter[str](), Counter[str]()
        self.redacted, self.right = Counter[str](), Counter[str]()
        self.missed: list[str] = []
        self.wrong: list[str] = []

    def add(self, message: Message, found: Sequence[Found]) -> None:
        for start, end, kind in message.spans:
            left = [
                at for at in range(start, end)
                if message.text[at].isalnum() and not any(each.start <= at < each.end for each in found)
            ]  # fmt: skip
            self.there[kind] += 1
            self.found[kind] += not left
            if left:
                self.missed.append(f"{kind}: {message.text[start:end]}")
        for each in found:
            right = any(start < each.end and each.start < end for start, end, _ in message.spans)
            self.redacted[each.kind] += 1
            self.right[each.kind] += right
            if not right:
                self.wrong.append(f"{each.kind}: {message.text[each.start : each.end]}")

    @property
    def recall(self) -> float:
        return self.found.total() / self.there.total()

    @property
    def precision(self) -> float:
        return self.right.total() / max(self.redacted.total(), 1)


def measure(seed: int, each: int) -> Score:
    finder = PersonalDataFinder(list(KINDS), RedactionSettings().regions)  # type: ignore[arg-type]
    score = Score()
    for message in corpus(seed, each):
        score.add(message, finder.find(message.text))
    return score


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--show", type=int, default=0, help="examples of what was missed or wrong")
    options = parser.parse_args()
    started = time.perf_counter()
    score = measure(options.seed, options.each)
    seconds = time.perf_counter() - started
    print(f"{'kind':12} {'there':>6} {'recall':>7} {'redacted':>9} {'precision':>10}")
    for kind in KINDS:
        recall = score.found[kind] / score.there[kind]
        precision = score.right[kind] / max(score.redacted[kind], 1)
        print(f"{kind:12} {score.there[kind]:6} {recall:7.3f} {score.redacted[kind]:9} {precision:10.3f}")
    total, redacted = score.there.total(), score.redacted.total()
    print(f"{'all':12} {total:6} {score.recall:7.3f} {redacted:9} {score.precision:10.3f}")
    print(f"{1_000 * seconds / total:.2f} ms a message of some 150 characters")
    for line in [*score.missed[: options.show], "", *score.wrong[: options.show]] if options.show else ():
        print(f"  {line}")
    if score.recall < RECALL or score.precision < PRECISION:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
