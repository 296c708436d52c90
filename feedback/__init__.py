"""From a click to a durable, ordered, deduplicated event."""
