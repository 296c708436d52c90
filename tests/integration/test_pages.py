"""The built pages are served compressed, cached by their content, and under a strict policy."""

import re

from tests.service import Service


def test_the_page_has_a_strict_policy_and_the_widget_is_for_every_origin(service: Service) -> None:
    with service.client(None) as client:
        page, widget = client.get("/"), client.get("/widget.js")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == widget.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    assert widget.headers["access-control-allow-origin"] == "*"
    assert widget.headers["cross-origin-resource-policy"] == "cross-origin"


def test_the_chat_page_is_framed_by_the_origins_of_its_key_only(service: Service) -> None:
    origins = ["https://shop.example", "https://www.shop.example"]
    with service.client() as admin:
        made = admin.post("/v1/keys", json={"kind": "publishable", "name": "shop", "origins": origins}).json()

    def framing(path: str) -> str:
        with service.client(None) as client:
            answer = client.get(path)
        assert answer.status_code == 200
        return answer.headers["content-security-policy"].partition("frame-ancestors ")[2]

    assert framing(f"/?key={made['key']}") == "'self' " + " ".join(origins)
    assert framing("/") == framing("/console") == framing("/?key=pk-hearken-nobody-0123456789") == "'self'"
    assert framing(f"/console?key={made['key']}") == "'self'"


def test_what_has_its_hash_in_its_name_is_kept_and_the_rest_revalidated(service: Service) -> None:
    with service.client(None) as client:
        widget = client.get("/widget.js")
        assert widget.headers["cache-control"] == "no-cache"
        assert widget.headers["content-encoding"] == "gzip"
        again = client.get("/widget.js", headers={"If-None-Match": widget.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = client.get("/widget.js", headers={"Accept-Encoding": "identity"})
        assert plain.text == widget.text
        assert "content-encoding" not in plain.headers
        for chunk in set(re.findall(r"widget/[\w-]+\.js", widget.text)):
            found = client.get(f"/{chunk}")
            assert "immutable" in found.headers["cache-control"]
            assert found.headers["access-control-allow-origin"] == "*"
        assert client.get("/widget/nothing.js").status_code == 404
        assert client.get("/widget.js.gz").status_code == 404
