# Image of the trainer, with the default torch wheel: on x86 with CUDA.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY schemas schemas
COPY feedback feedback
COPY serving serving
COPY trainer trainer
COPY deploy deploy
RUN pip install --no-cache-dir --constraint constraints.txt '.[local,parquet,s3,redaction,safety]' \
    && useradd --uid 10001 hearken \
    && install --directory --owner hearken /data
USER 10001
VOLUME /data
ENTRYPOINT ["hearken"]
CMD ["train"]
