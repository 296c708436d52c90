"""FeatureCache keeps the base's features and log-probabilities of voted replies from round to round.

They are on disk, by the digest of the reply with its prompt: a trainer that starts again scores none of them
again, and memory has only those that are asked for.
"""

import hashlib
from pathlib import Path

import torch

from trainer.data.examples import Corpus, Key
from trainer.data.feature_table import FeatureTable, digest_of
from trainer.model.backbone import Backbone
from trainer.model.device import device_kind
from trainer.reward.features import FeatureGroups
from trainer.reward.scoring import score

VERSION = 2
"""Version of the features. It changes with what they mean."""

CHUNK = 256
"""Replies that are scored before they are written down."""

_BASE_LOGPROB = "base_logprob"
_PATTERN = "features-*.bin"


class FeatureCache:
    """Scores each voted reply once, and drops it with its vote. Without a `directory`, and in a group of
    processes, which must score the same, it is in memory."""

    def __init__(self, backbone: Backbone, directory: Path | None = None) -> None:
        self._backbone = backbone
        path = None
        if directory is not None and backbone.group.size == 1:
            path = directory / f"features-{_kind(backbone)}.bin"
            for other in directory.glob(_PATTERN):
                if other != path:
                    other.unlink(missing_ok=True)  # of another base, or another machine
        self._table = FeatureTable(path)
        self._digests: dict[Key, bytes] = {}

    def update(self, corpus: Corpus) -> None:
        """Scores the new replies of `corpus` and drops the replies that it no longer has. Each reply is a
        batch of its own, so that its score does not depend on the round that computed it."""
        self.keep(corpus)
        replies = {self._digests[key]: reply for key, reply in corpus.replies.items()}
        new = [(digest, reply) for digest, reply in replies.items() if digest not in self._table]
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            scored = score(
                self._backbone,
                [reply.prompt_ids for _, reply in chunk],
                [reply.token_ids for _, reply in chunk],
                micro_batch=1,
            )
            totals_N = torch.tensor([sum(each) for each in scored.base_logprobs], dtype=torch.float64)
            groups = scored.features | {_BASE_LOGPROB: totals_N.unsqueeze(1)}
            self._table.add([digest for digest, _ in chunk], groups)

    def keep(self, corpus: Corpus) -> None:
        """Drops the replies that `corpus` does not have, from the disk, too."""
        self._digests = {
            key: digest_of(reply.prompt_ids, reply.token_ids) for key, reply in corpus.replies.items()
        }
        self._table.keep(set(self._digests.values()))

    def base_logprob(self, key: Key) -> float:
        """Returns the log-probability of a reply under the base, nats in total."""
        return float(self._table.rows([self._digests[key]])[_BASE_LOGPROB])

    def features(self, keys: list[Key]) -> FeatureGroups:
        """Returns the features of the replies, one row each."""
        found = self._table.rows(self._digests[key] for key in keys)
        return {name: group for name, group in found.items() if name != _BASE_LOGPROB}


def _kind(backbone: Backbone) -> str:
    """Returns the digest of what the last bits of a score depend on: the models, this code, the machine."""
    machine = device_kind(backbone.device, 1), torch.__version__, str(torch.get_num_threads())
    parts = str(VERSION), backbone.features_digest, *machine
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
