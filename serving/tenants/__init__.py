"""Projects, their keys, what they used, and who changed what."""
