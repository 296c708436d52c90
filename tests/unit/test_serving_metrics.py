"""Metrics that were renamed are exported under both names, with the same samples, for one release."""

from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import Metrics

RENAMED = {
    "hearken_requests_in_flight": "hearken_streams",
    "hearken_time_to_first_token_seconds": "hearken_first_token_seconds",
}


def test_a_renamed_metric_keeps_its_old_name_with_the_same_samples() -> None:
    metrics = Metrics()
    metrics.time_to_first_token.observe(0.2)
    with metrics.requests_in_flight.track_inprogress():
        text = metrics.exposition().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for new, old in RENAMED.items():
        samples = [(sample.name, sample.labels, sample.value) for sample in families[new].samples]
        renamed = [(name.replace(new, old), labels, value) for name, labels, value in samples]
        assert any(value > 0 for _, _, value in samples)
        assert [(each.name, each.labels, each.value) for each in families[old].samples] == renamed
        assert families[old].type == families[new].type
        assert families[old].documentation == f"Deprecated: use {new}."
