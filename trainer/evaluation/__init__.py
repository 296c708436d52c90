"""Evaluation of candidate and live policies."""
