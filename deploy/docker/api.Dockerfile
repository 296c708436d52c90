# Image of the chat API, the relay and the judge, without torch.
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY schemas schemas
COPY feedback feedback
COPY serving serving
COPY trainer trainer
COPY deploy deploy
RUN pip install --no-cache-dir --constraint constraints.txt '.[s3]' \
    && useradd --uid 10001 hearken \
    && install --directory --owner hearken /spool
USER 10001
EXPOSE 8000
ENTRYPOINT ["hearken"]
CMD ["serve"]
