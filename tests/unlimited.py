"""Settings without rate limits, for tests and benches that ask faster than people do."""

UNLIMITED = dict.fromkeys(
    (
        "requests_per_minute",
        "address_requests_per_minute",
        "user_requests_per_minute",
        "network_votes_per_hour",
    ),
    100_000_000,
)
UNLIMITED_ENVIRONMENT = {f"HEARKEN_SERVING__{name.upper()}": str(value) for name, value in UNLIMITED.items()}
