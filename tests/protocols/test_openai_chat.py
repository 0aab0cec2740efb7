"""`POST /v1/chat/completions`, judged by the `openai` SDK."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest

from conftest import KEY, Running

SAID = [{"role": "system", "content": "You repeat."}, {"role": "user", "content": "안녕, 한상 is  a table"}]


@pytest.fixture
def sdk(serve: Callable[..., Running]) -> openai.OpenAI:
    return openai.OpenAI(base_url=serve("echo:", key=KEY).url + "/v1", api_key=KEY, max_retries=0)


def test_the_sdk_reads_a_whole_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="echo", messages=SAID)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "안녕, 한상 is  a table"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 7 + 5


def test_the_sdk_streams_the_same_answer(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="echo",
            messages=SAID,
            stream=True,
            stream_options={"include_usage": True},  # type: ignore[arg-type]
        )
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "안녕, 한상 is  a table"
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_usage_comes_only_when_asked_for(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model="echo", messages=SAID, stream=True))  # type: ignore[arg-type]
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"temperature": 1}, "unsupported_parameter", "temperature"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid_type", "messages[0].content"),
        ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    sdk: openai.OpenAI, body: dict[str, object], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{"model": "echo", "messages": SAID, **body})  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param) == (code, param)


def test_an_unknown_model_is_the_sdks_not_found(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="ecco", messages=SAID)  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_the_sdks_authentication_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").chat.completions.create(model="echo", messages=SAID)  # type: ignore[arg-type]
