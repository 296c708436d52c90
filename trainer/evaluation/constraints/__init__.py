"""Constraints of the gate: what a candidate may not do more often than the base, however people vote."""
