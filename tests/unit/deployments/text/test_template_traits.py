"""What is found out about chat templates. Each is cut down to what its family is known for."""

import pytest

from deployments.text.jinja_template import JinjaTemplate
from deployments.text.template_traits import TemplateTraits, template_traits

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
QWEN = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "</tool_call>{% endfor %}{% endfor %}"
)
DEEPSEEK_R1 = (  # calls are written where content is none, their arguments as text; tools are not known
    "{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}"
    "{% for tool in m['tool_calls'] %}{{ tool['function']['name'] + '\n' + tool['function']['arguments'] }}{% endfor %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids must have length 9') }}{% endif %}"
    "[TOOL_CALLS]{{ call.function | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}{{ tools }}"
)
GEMMA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
SMOLVLM = (
    "{% for m in messages %}{{ m.role }}:{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
PRINTS_CONTENT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}"
)
LLAMA = (  # `tools` is set by the template itself where it is missing
    "{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools is not none %}{{ tools | tojson }}"
    "{% endif %}{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments | tojson }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)

DEFAULTS = {
    "tools": False,
    "system": True,
    "content_parts": False,
    "calls": False,
    "object_arguments": False,
    "short_ids": False,
    "null_content": True,
}


@pytest.mark.parametrize(
    ("source", "traits"),
    [
        (PLAIN, {}),
        ("{# tools #}" + PLAIN, {}),
        (QWEN, {"tools": True, "calls": True, "object_arguments": True}),
        (LLAMA, {"tools": True, "calls": True, "object_arguments": True}),
        (DEEPSEEK_R1, {"calls": True}),
        (MISTRAL, {"tools": True, "calls": True, "object_arguments": True, "short_ids": True}),
        (GEMMA, {"system": False}),
        (SMOLVLM, {"content_parts": True}),
        (PRINTS_CONTENT, {"calls": True, "object_arguments": True, "null_content": False}),
    ],
)
def test_traits(source: str, traits: dict[str, bool]) -> None:
    assert template_traits(JinjaTemplate(source), {}) == TemplateTraits(**{**DEFAULTS, **traits})
