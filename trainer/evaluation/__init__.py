"""Evaluation of policies: the gate, knowledge questions, the live regression test and style statistics."""
