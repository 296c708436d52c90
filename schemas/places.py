"""The places that one process has at a time, each an advisory lock of Postgres, which goes with its holder's
connection."""

RELAY = 0x5245_4C41
"""pg_advisory_lock(RELAY)"""
TRAINER = 0x5452_4149
"""pg_advisory_lock(TRAINER, hashtext(project))"""
