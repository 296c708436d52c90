"""The figures that the project promises, one command each: `python -m tests.bench.<name>`.

Each starts its own `hearken up` on a temporary data folder, measures through the public API, prints a table
and then one line of JSON, and exits with 1 where a promise is not kept. Nothing else should be running.
"""
