"""These are the keys of the Postgres advisory locks that elect one process for a job. A lock ends with the
connection of its holder."""

RELAY = 0x5245_4C41
"""pg_advisory_lock(RELAY)"""
TRAINER = 0x5452_4149
"""pg_advisory_lock(TRAINER, hashtext(project))"""
EXPORT = 0x4558_5054
"""pg_advisory_lock(EXPORT, hashtext(project))"""
ERASURE = 0x4552_4153
"""pg_advisory_lock(ERASURE, hashtext(erasure))"""
