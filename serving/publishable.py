"""A publishable key is everybody's, so a chat with it may only sample: what loads an engine otherwise, as its
grammar compiler, its media code or its chat template, is for servers."""

from schemas.chat import ChatRequest
from schemas.errors import Forbidden, InvalidRequest

FIELDS = frozenset(
    {
        *("messages", "model", "user", "metadata", "store", "compare"),
        *("n", "stream", "stream_options", "max_tokens", "stop", "seed", "temperature", "top_p"),
        *("presence_penalty", "frequency_penalty", "top_k", "min_p", "repetition_penalty"),
        *("logprobs", "top_logprobs", "include_reasoning", "response_format"),
    }
)
"""The fields that a publishable key may send."""


def check_publishable(request: ChatRequest) -> None:
    """Raises Forbidden (`parameter_not_allowed`) for a field that takes a secret key, and InvalidRequest for
    a file that an engine would fetch, from inside the operator's network."""
    beyond = request.model_fields_set - FIELDS
    if beyond:
        raise _for_servers(min(beyond), min(beyond))
    form = request.response_format
    if form is not None and form.type != "json_object":  # an engine compiles each schema into a grammar
        raise _for_servers(f"response_format of type {form.type}", "response_format")
    if request.names_addresses:
        raise InvalidRequest("With a publishable key, send the file itself as a data: URL.", param="messages")


def _for_servers(what: str, param: str) -> Forbidden:
    return Forbidden(
        f"A publishable key may not send {what}; leave it out, or ask from your server with a secret key.",
        code="parameter_not_allowed",
        param=param,
    )
