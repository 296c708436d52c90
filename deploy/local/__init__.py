"""This package starts what Hearken needs on one machine: processes, Postgres, vLLM, the base model."""
