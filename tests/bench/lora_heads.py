"""This bench compares the two kinds of reward model on pairs of replies that people ranked, and their choice.

    python -m tests.bench.lora_heads --data PATH --model DIR

`PATH` and `DIR` are those of `tests.bench.preferences`, and so are the pairs and the seeds. As in a round, a
fifth of the pairs that are learned from is held out: the probe and the heads are fitted to the others, and
the heads' share in r is found by these. The figures are the shares of the remaining pairs that the probe, the
heads alone and the chosen model order as people did. Target: the chosen one is not below the better of the
two by more than a point. Features and hidden states are kept in a folder of temporary files.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from schemas.settings import TrainerSettings
from tests.bench.preference_data import Pair, harmless_pairs
from tests.bench.preferences import BLOCK, SEEDS, SIZES, FeatureFiles, share_right, shuffled, split
from trainer.data.lora_heads_fit import SHARES, best_share, upper_layer
from trainer.model.backbone import Backbone
from trainer.model.upper_layers import UpperLayers
from trainer.reward import ensemble, lora_heads
from trainer.reward.ensemble import RewardModel, bootstrap
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Likelihood, Votes
from trainer.reward.lora_heads import LORA_HEADS, RANK, HeadVotes, LoraHeads
from trainer.reward.scoring import upper_inputs

HELD_OUT = 5
"""One in so many of the pairs that are learned from is held out."""

STEP_TOKENS = 2**14
"""Most tokens of a step of the heads' fit."""


class States:
    """Hidden states of the pairs' replies, the better reply of each in an even row, in files that a later run
    finds again."""

    def __init__(self, backbone: Backbone, files: FeatureFiles, layer: int) -> None:
        self._backbone, self._files, self._layer = backbone, files, layer

    def of(self, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> list[Tensor]:
        """Returns the (R, D) hidden states of replies to prompts."""
        found: list[Tensor] = []
        for start in range(0, len(replies), 2 * BLOCK):
            rows = slice(start, start + 2 * BLOCK)
            path = self._files.path(prompts[rows], replies[rows], f"states{self._layer}")
            if not path.exists():
                states = upper_inputs(self._backbone, prompts[rows], replies[rows], self._layer)
                save_file({str(row): each for row, each in enumerate(states)}, path.with_suffix(".draft"))
                path.with_suffix(".draft").replace(path)
                print(f"states of {start + len(states)} of {len(replies)}", file=sys.stderr, flush=True)
            block = load_file(path)
            found += [block[str(row)] for row in range(len(block))]
        return found


def rankings(pairs: int) -> Votes:
    """Returns rankings of two replies each, of which the first is better."""
    votes = Votes(1)
    for pair in range(pairs):
        votes.ranking(0, [[2 * pair], [2 * pair + 1]], first=None)
    return votes


def share_of_heads(probe: RewardModel, features: FeatureGroups) -> float:
    """Returns the heads' share by held-out pairs, whose features have the heads' logits."""
    likelihood = Likelihood(rankings(len(features[LORA_HEADS]) // 2))
    nuisance = probe.members[0].nuisance
    log_p = {
        share: likelihood.by_vote(
            replace(probe, lora_share=share).logits(features).mean(1).double(), nuisance
        )
        for share in SHARES
    }
    return best_share({share: log_p_V - log_p[0.0] for share, log_p_V in log_p.items()})


def compare(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Prints the figures of each seed and size, and returns them."""
    settings = TrainerSettings()
    backbone = Backbone(options.model, settings.rl)
    layer = upper_layer(backbone)
    assert layer is not None
    files = FeatureFiles(backbone)
    pairs = harmless_pairs(options.data)
    pairs = sorted(pairs, key=Pair.characters)[: options.limit] if options.limit else pairs
    states, base = States(backbone, files, layer), files.base(pairs)
    base_states, measured = states.of(*files.base_rows(pairs)), files.pairs(pairs)
    pair_states = states.of(*files.rows(pairs))
    figures: dict[str, list[dict[str, float]]] = {}
    for size in [size for size in options.sizes if size < len(pairs)]:
        for seed in options.seeds:
            learned, rest = split(pairs, shuffled(pairs, seed), size)
            kept = len(learned) - len(learned) // HELD_OUT
            training, held_out = learned[:kept], learned[kept:]
            generator = torch.Generator().manual_seed(seed)
            votes = rankings(len(training))
            probe = ensemble.fit(measured.rows(training), votes, base, settings.reward, generator)
            drawn = bootstrap(settings.reward, votes, torch.Generator().manual_seed(seed))
            data = HeadVotes(
                votes,
                dict(enumerate(rows_of(pair_states, training))),
                [member.nuisance for member in probe.members],
                torch.tensor([member.bias for member in probe.members]),
                torch.stack(list(drawn)),
            )
            upper, begun = UpperLayers(backbone, layer, RANK, seed), time.process_time()
            heads = lora_heads.fit(upper, data, base_states, STEP_TOKENS, generator)
            seconds = time.process_time() - begun

            def with_heads(chosen: Sequence[int], heads: LoraHeads = heads) -> FeatureGroups:
                return measured.rows(chosen) | {LORA_HEADS: heads.all_logits(rows_of(pair_states, chosen))}

            share, judged = share_of_heads(probe, with_heads(held_out)), with_heads(rest)
            upper.remove()
            row = {
                name: share_right(replace(probe, lora_share=each), judged)
                for name, each in (("probe", 0.0), ("heads", 1.0), ("chosen", share))
            } | {"share": share, "heads_seconds": seconds}
            figures.setdefault(str(size), []).append(row)
            print(size, seed, {name: round(value, 3) for name, value in row.items()}, flush=True)
    return figures


def rows_of(states: Sequence[Tensor], pairs: Sequence[int]) -> list[Tensor]:
    return [states[row] for pair in pairs for row in (2 * pair, 2 * pair + 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of pairs")
    parser.add_argument("--model", type=Path, required=True, help="folder of a base model")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--limit", type=int, help="use only so many pairs, the shortest dialogues")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = compare(options)
    below = []
    for size, rows in figures.items():
        middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        print(f"{size} pairs, medians: { {name: round(value, 3) for name, value in middle.items()} }")
        below.append(max(middle["probe"], middle["heads"]) - middle["chosen"])
    print(json.dumps(figures))
    return 0 if max(below) <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
