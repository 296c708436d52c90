"""A project's widget has settings that any key reads and an admin key replaces."""

import pytest

from tests.service import ADMIN, PUBLIC, Service

LOOK = {
    "name": "Baker",
    "logo": "data:image/svg+xml;base64,PHN2Zy8+",
    "accent": "#7a1f5c",
    "greeting": "Ask about bread.",
    "examples": ["Rye?"],
    "reasons": {"up": {"crisp": "Crisp"}},
    "language": "de",
    "consent": "ask",
}


def test_the_settings_are_replaced_as_a_whole(service: Service) -> None:
    with service.client(ADMIN) as admin, service.client(PUBLIC) as page:
        assert page.get("/v1/widget").json() == {}
        assert admin.put("/v1/widget", json=LOOK).json() == LOOK
        found = page.get("/v1/widget", headers={"Origin": "https://shop.example"})
        assert found.json() == LOOK
        assert found.headers["access-control-allow-origin"] == "*"
        assert admin.put("/v1/widget", json={}).json() == {}
        assert page.get("/v1/widget").json() == {}
        assert page.put("/v1/widget", json=LOOK).status_code == 403


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("logo", "https://example.org/logo.png"),
        ("logo", "data:text/html,<script>"),
        ("accent", "red; background: url(x)"),
        ("examples", ["x"] * 9),
        ("reasons", {"up": {"Not a slug": "x"}}),
        ("reasons", {"sideways": {}}),
        ("language", "german!"),
        ("consent", "never"),
        ("unknown", 1),
    ],
)
def test_a_wrong_setting_is_refused_and_changes_nothing(service: Service, field: str, value: object) -> None:
    with service.client(ADMIN) as client:
        answer = client.put("/v1/widget", json={field: value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith(field)
        assert client.get("/v1/widget").json() == {}
