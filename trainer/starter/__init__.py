"""The starter model: a small chat model that ships with Hearken, and the builder that made it.

It talks about a small closed world in many styles that the prompt does not determine, so that people's
votes have something to choose between. No data set is used: the builder writes every training dialogue
itself, from tables and a grammar.

    python -m trainer.starter prompts --count 5 --seed 1
    python -m trainer.starter build --out /tmp/model
    python -m trainer.starter measure --count 2000 --seed 1
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
"""The shipped model, in transformers' own layout."""
