"""Prompts byte for byte as transformers renders them, and templates that mean harm."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import transformers

from node.errors import ConfigInvalid, PromptInvalid
from node.head import template as template_module
from node.head.template import ChatTemplate

LLAMA_3 = """\
{%- set loop_messages = messages %}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- for message in loop_messages %}
    {%- set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' \
+ message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.index0 == 0 %}
        {%- set content = bos_token + content %}
    {%- endif %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{% endfor %}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages if message.role != 'nobody' %}
    {%- if message.role == "user" or message.role == "system" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.reasoning_content is string and loop.index0 > ns.last_query_index %}
            {{- '\n<think>\n' + message.reasoning_content.strip('\n') + '\n</think>\n' }}
        {%- endif %}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
            {{- tool_call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

MARKED = """\
{% macro turn(name, text) %}
[{{ name | upper }}] {{ text }}
{% endmacro %}
{% for message in messages %}
  {% if message.role == 'assistant' %}
    {% generation %}
    {{ turn('bot', message.content) }}{{ eos_token }}
    {% endgeneration %}
  {% else %}
    {{- turn(message.name or message.role, message.content) }}
  {% endif %}
  {% if loop.changed(message.role) %}changed of {{ loop.length }}{% endif %}
{% else %}
nothing
{% endfor %}
{{ strftime_now('%Y') | length }} {{ {'a': 'é<&>', 'b': [1, 2.5, none]} | tojson(indent=2) }}
{%- for key, value in dict(z=1, a=2) | dictsort %} {{ key }}={{ value }}{% endfor %}
{% if not add_generation_prompt %}closed{% endif %}
"""

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "  Hello <b>there</b> & “friends” 🛶 \n"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Hello.", "reasoning": "greet back\n", "refusal": None},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
    ],
    [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
                }
            ],
        },
        {"role": "tool", "content": '{"sky": "grey"}', "tool_call_id": "call_1"},
        {"role": "tool", "content": "rain", "tool_call_id": "call_2"},
    ],
]


@pytest.fixture(scope="module")
def theirs(directory: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(directory)


class TestRender:
    @pytest.mark.parametrize("source", [LLAMA_3, QWEN, MARKED], ids=["llama3", "qwen", "marked"])
    @pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "turns", "tools"])
    @pytest.mark.parametrize("prompt", [True, False])
    def test_same_prompt_as_transformers(
        self,
        theirs: transformers.PreTrainedTokenizerBase,
        source: str,
        messages: list[dict[str, Any]],
        prompt: bool,
    ) -> None:
        ours = ChatTemplate(source, theirs.special_tokens_map)
        expected = theirs.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=prompt
        )
        assert ours.render(messages, add_generation_prompt=prompt) == expected

    def test_template_of_the_repositorys_model(self) -> None:
        tiny = Path(__file__).parents[3] / "node" / "assets" / "piecework-tiny"
        if not tiny.is_dir():
            pytest.skip("the trained model is not in this checkout")
        library = transformers.AutoTokenizer.from_pretrained(tiny)
        ours = ChatTemplate(library.chat_template, library.special_tokens_map)
        for messages in CONVERSATIONS[:2]:
            expected = library.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            assert ours.render(messages) == expected

    def test_time_is_an_argument(self) -> None:
        ours = ChatTemplate(
            "{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 11, 21, tzinfo=UTC)
        )
        assert ours.render([{"role": "user", "content": "a"}]) == "21 Nov 2026"

    def test_messages_of_the_caller_stay_as_they_are(self) -> None:
        messages = [{"role": "user", "content": "a", "reasoning": "b"}]
        before = json.dumps(messages)
        ChatTemplate("{% for m in messages %}{{ m.thinking }}{% endfor %}").render(messages)
        assert json.dumps(messages) == before


ONE = [{"role": "user", "content": "hello"}]


class TestRefusals:
    def test_templates_own_complaint_reaches_the_caller(self) -> None:
        ours = ChatTemplate("{{ raise_exception('Roles must alternate!') }}")
        with pytest.raises(PromptInvalid, match="Roles must alternate!"):
            ours.render(ONE)

    def test_no_message_is_refused(self) -> None:
        with pytest.raises(PromptInvalid):
            ChatTemplate("").render([])

    @pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% generation %}", "x" * 600_000])
    def test_broken_or_huge_source_is_config_invalid(self, source: str) -> None:
        with pytest.raises(ConfigInvalid):
            ChatTemplate(source)

    @pytest.mark.parametrize(
        "source",
        [
            "{{ messages.__class__.__mro__[1].__subclasses__() }}",
            "{{ messages[0].content.format_map }}{{ messages.append(1) }}",
            "{{ self.__init__.__globals__ }}",
            "{% include 'other' %}",
            "{{ range(10**9) }}",
            "{{ 1 / 0 }}",
            "{{ messages[0].content + 1 }}",
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        ],
    )
    def test_what_a_template_may_not_do_is_prompt_invalid(self, source: str) -> None:
        with pytest.raises(PromptInvalid):
            ChatTemplate(source).render(ONE)

    @pytest.mark.parametrize(
        "source",
        [
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "{% for a in range(9999) %}{% for b in range(9999) if 0 %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{% if n %}{{ f(n-1) ~ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        ],
    )
    def test_endless_work_is_stopped(self, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_module, "LOOP_ROUNDS_MAX", 20_000)
        with pytest.raises(PromptInvalid, match="loops more than"):
            ChatTemplate(source).render(ONE)

    def test_rounds_are_counted_anew_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_module, "LOOP_ROUNDS_MAX", 50)
        ours = ChatTemplate("{% for a in range(40) %}{% endfor %}done")
        assert [ours.render(ONE) for _ in range(3)] == ["done"] * 3

    def test_endless_output_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_module, "PROMPT_CHARS_MAX", 1000)
        ours = ChatTemplate("{% for a in range(9999) %}{{ 'x' * 100 }}{% endfor %}")
        with pytest.raises(PromptInvalid, match="longer than 1000"):
            ours.render(ONE)

    def test_too_much_text_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_module, "MESSAGES_CHARS_MAX", 100)
        with pytest.raises(PromptInvalid, match="more than 100"):
            ChatTemplate("").render([{"role": "user", "content": "x" * 101}])

    def test_deep_nesting_is_refused(self) -> None:
        deep: object = "x"
        for _ in range(100):
            deep = [deep]
        with pytest.raises(PromptInvalid, match="deep"):
            ChatTemplate("").render([{"role": "user", "content": deep}])

    def test_objects_with_methods_are_refused(self) -> None:
        with pytest.raises(PromptInvalid, match="not JSON"):
            ChatTemplate("").render([{"role": "user", "content": Path("/")}])

    def test_counter_cannot_be_shadowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(template_module, "LOOP_ROUNDS_MAX", 100)
        source = (
            "{% set count_round = 1 %}{% set environment = 1 %}"
            "{% for a in range(101) %}{% endfor %}"
        )
        with pytest.raises(PromptInvalid, match="loops more than"):
            ChatTemplate(source).render(ONE)
