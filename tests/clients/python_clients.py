"""One function per client and feature: `python python_clients.py NAME`.

The service is at $HEARKEN_URL, with the key $HEARKEN_KEY. Each function asks as the client's own
documentation does, and fails where the answer is not what that promises.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

URL, KEY = os.environ["HEARKEN_URL"] + "/v1", os.environ["HEARKEN_KEY"]
ASK = [{"role": "user", "content": "Name a city and how many people live there."}]


class City(BaseModel):
    """A city."""

    name: str
    large: bool


class Anything(BaseModel):
    """Any object of JSON: in JSON mode, the fields are up to the model."""

    name: str | None = None


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"hot": {"type": "boolean"}},
            "required": ["hot"],
            "additionalProperties": False,
        },
    },
}


def openai_client() -> Any:
    from openai import OpenAI

    return OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=300)


def openai_whole_and_streamed() -> None:
    client = openai_client()
    ask: dict[str, Any] = {"model": "default", "messages": ASK, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    pieces = client.chat.completions.create(**ask, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole
    with client.chat.completions.stream(**ask) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(deltas) == whole


def openai_parse() -> None:
    found = openai_client().chat.completions.parse(
        model="default", messages=ASK, response_format=City, max_tokens=200
    )
    assert isinstance(found.choices[0].message.parsed, City)


def openai_tools() -> None:
    message = (
        openai_client()
        .chat.completions.create(
            model="default", messages=ASK, tools=[WEATHER], tool_choice="required", max_tokens=200
        )
        .choices[0]
        .message
    )
    assert message.tool_calls[0].function.name == "weather"
    history = [
        *ASK,
        message,
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It is hot."},
    ]
    again = openai_client().chat.completions.create(
        model="default", messages=history, tools=[WEATHER], tool_choice="none", max_tokens=8
    )
    assert again.choices[0].message.content is not None


def openai_responses() -> None:
    client = openai_client()
    first = client.responses.create(model="default", input="Hello", max_output_tokens=8)
    assert first.output_text
    again = client.responses.create(
        model="default", input="And now?", previous_response_id=first.id, max_output_tokens=8
    )
    assert again.output_text
    with client.responses.stream(model="default", input="Hello", max_output_tokens=8) as stream:
        assert stream.get_final_response().output_text
    parsed = client.responses.parse(model="default", input="A city.", text_format=City, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, City)


def openai_stored() -> None:
    client = openai_client()
    made = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=4, store=True, metadata={"page": "home"}
    )
    listed = client.chat.completions.list(metadata={"page": "home"})
    assert made.id in [each.id for each in listed]
    assert client.chat.completions.retrieve(made.id).id == made.id
    assert client.chat.completions.delete(made.id).deleted


def langchain() -> None:
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="default", base_url=URL, api_key=KEY, max_retries=0, max_tokens=200)
    assert model.invoke([SystemMessage(""), HumanMessage("Hello")]).content
    assert "".join(str(piece.content) for piece in model.stream("Hello"))
    called = model.bind_tools([WEATHER], tool_choice="weather").invoke("Is it hot in Rome?")
    assert called.tool_calls[0]["name"] == "weather"
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(City, method=method).invoke("A city."), City)


def litellm() -> None:
    import litellm

    ask: dict[str, Any] = {
        "model": "openai/default",
        "api_base": URL,
        "api_key": KEY,
        "messages": ASK,
        "max_tokens": 200,
    }
    assert litellm.completion(**ask).choices[0].message.content
    pieces = litellm.completion(**ask, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
    called = litellm.completion(**ask, tools=[WEATHER], tool_choice="required")
    assert called.choices[0].message.tool_calls[0].function.name == "weather"


def instructor() -> None:
    import instructor

    for mode, answer in ((instructor.Mode.TOOLS, City), (instructor.Mode.JSON, Anything)):
        client = instructor.from_openai(openai_client(), mode=mode)
        found = client.chat.completions.create(
            model="default", messages=ASK, response_model=answer, max_tokens=200, max_retries=0
        )
        assert isinstance(found, answer)


def pydantic_ai() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("default", provider=OpenAIProvider(base_url=URL, api_key=KEY))
    assert Agent(model).run_sync("Hello", model_settings={"max_tokens": 8}).output
    found = Agent(model, output_type=City).run_sync("A city.", model_settings={"max_tokens": 200})
    assert isinstance(found.output, City)


def llm() -> None:
    folder = Path(os.environ["LLM_USER_PATH"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: hearken\n  model_name: default\n  api_base: {URL}\n  api_key_name: hearken\n"
    )
    command = [str(Path(sys.executable).parent / "llm"), "-m", "hearken", "--key", KEY, "Say hello."]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip()


CLIENTS = {
    client.__name__: client
    for client in (
        openai_whole_and_streamed,
        openai_parse,
        openai_tools,
        openai_responses,
        openai_stored,
        langchain,
        litellm,
        instructor,
        pydantic_ai,
        llm,
    )
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        CLIENTS[name]()
