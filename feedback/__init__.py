"""This room turns a vote into a durable, ordered, deduplicated event of the feedback log."""
