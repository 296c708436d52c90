"""/v1/chat/completions as a client meets it, on real sockets and a real engine process."""

from tests.service import Service


def test_a_reply_says_who_answered_and_how_to_vote_on_it(service: Service) -> None:
    completion = service.chat("Hello there", n=2)
    assert completion["object"] == "chat.completion"
    assert completion["system_fingerprint"] == "p0"
    assert [choice["index"] for choice in completion["choices"]] == [0, 1]
    hearken = completion["hearken"]
    assert hearken["turn_id"] == completion["id"]
    assert hearken["policies"] == ["p0", "p0"]
    assert hearken["conversation_id"].startswith("conv-")
    assert hearken["feedback_token"]
