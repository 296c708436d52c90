"""This package simulates people with a hidden preference, who chat and vote through the public API."""
