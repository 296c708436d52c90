"""This package builds and evaluates the starter model, a small chat model that ships with Hearken.

It is trained on a closed world in many styles that the prompt does not determine, so that votes have
something to choose between. No data set is used: a grammar writes every training dialogue from tables.

    python -m trainer.starter prompts --count 5 --seed 1
    python -m trainer.starter build --out /tmp/model
    python -m trainer.starter measure --count 2000 --seed 1
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
"""The shipped model in the layout of transformers."""
