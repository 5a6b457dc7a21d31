"""Reading gallery indexes and base configs."""

import re
import time

import pytest

from deployments.errors import ConfigInvalid, ModelNotFound
from gallery.index import STARTER, Entry, Template, fetch_index, find, merge, read_base, read_index
from gallery.request import File


def test_anchors_and_explicit_merge_keys() -> None:
    first, second = read_index(
        """
- &base
  name: small
  license: mit
  config_file: {backend: llama-cpp, parameters: {model: small.gguf, top_k: 5}}
  files: [{filename: small.gguf, sha256: AB, uri: "pypi://p==1/small.gguf"}]
- !!merge <<: *base
  name: large
  overrides: {parameters: {model: large.gguf}}
""",
        "index.yaml",
    ).entries
    assert (first.license, second.license) == ("mit", "mit")
    assert first.files == second.files == (File("small.gguf", "pypi://p==1/small.gguf", "AB"),)
    assert second.config_file == first.config_file == {
        "backend": "llama-cpp",
        "parameters": {"model": "small.gguf", "top_k": 5},
    }  # fmt: skip
    assert second.overrides == {"parameters": {"model": "large.gguf"}}


def test_what_other_galleries_write() -> None:
    """Keys of their own, nulls, numbers and dates for texts, a config as a text, files in parts."""
    (entry,) = read_index(
        """
- name: 2024-01-05
  license: 2.0
  urls:
  icon: null
  size: 3GB
  variants: [{model: b}]
  overrides: {parameters: {temperature: 1e-1, model: x}, released: 2024-01-05}
  config_file: |
    backend: echo
    stopwords: [a]
  files:
    - {filename: w, parts: ["hf://a/b/1", "hf://a/b/2"]}
""",
        "index.yaml",
    ).entries
    assert entry == Entry(
        "2024-01-05",
        license="2.0",
        config_file={"backend": "echo", "stopwords": ["a"]},
        overrides={"parameters": {"temperature": 0.1, "model": "x"}, "released": "2024-01-05"},
        files=(File("w", parts=("hf://a/b/1", "hf://a/b/2")),),
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("- {config_file: {}}", r"\[1\]: name"),
        ("- {name: bad, config_file: [a]}", "bad: config_file"),
        ("- {name: bad, config_file: 'a: [b'}", "bad: not YAML"),
        ("- {name: bad, files: [{filename: f}]}", r"bad: files\.0: has no uri"),
        ("- {name: bad, files: [{uri: 'hf://a/b/c'}]}", r"bad: files\.0\.filename"),
        ("- just a text", r"\[1\]: expected a mapping"),
    ],
)
def test_a_wrong_entry_is_named_and_the_others_stay(bad: str, reason: str) -> None:
    index = read_index(f"- {{name: first}}\n{bad}\n- {{name: last}}\n", "https://hub/index.yaml")
    assert [entry.name for entry in index.entries] == ["first", "last"]
    (problem,) = index.problems
    assert re.match(rf"https://hub/index\.yaml: {reason}", problem)


@pytest.mark.parametrize("text", ["name: a", "- {name: a", "<html>not found</html>", "- &a [*a]\n- !!python/name:os.x"])
def test_what_is_no_index_is_refused_with_its_address(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^https://hub/index\.yaml: "):
        read_index(text, "https://hub/index.yaml")


def test_an_empty_index_has_no_entries() -> None:
    assert read_index("# nothing yet\n", "index.yaml").entries == []


def test_an_index_as_large_as_localais_is_read_quickly() -> None:
    entry = """
- &e{i}
  name: model-{i}
  license: mit
  description: {words}
  urls: [https://huggingface.co/a/b]
  tags: [llm, gguf, cpu]
- !!merge <<: *e{i}
  name: model-{i}-b
  overrides: {{parameters: {{model: m.gguf}}}}
  files: [{{filename: m.gguf, sha256: abc, uri: huggingface://a/b/m.gguf}}]
"""
    text = "".join(entry.format(i=i, words="word " * 60) for i in range(1000))
    began = time.process_time()
    assert len(read_index(text, "index.yaml").entries) == 2000
    assert time.process_time() - began < 10


class Texts:
    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    async def text(self, uri: str) -> str:
        return self.texts[uri]


@pytest.mark.parametrize(
    ("ref", "body", "target"),
    [
        ("https://hub/a/index.ref", "real.yaml\n", "https://hub/a/real.yaml"),
        ("https://hub/a/index.ref?token=1", "real.yaml", "https://hub/a/real.yaml"),
        ("github:owner/repo/a/index.ref@main", "real.yaml", "github:owner/repo/a/real.yaml@main"),
        ("https://hub/a/index.ref", "https://other/b.yaml", "https://other/b.yaml"),
    ],
)
async def test_a_ref_names_the_index_beside_it(ref: str, body: str, target: str) -> None:
    index = await fetch_index(Texts({ref: body, target: "- {name: a}"}), ref)
    assert [entry.name for entry in index.entries] == ["a"]


async def test_a_ref_that_names_no_file_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="expected the name of a file"):
        await fetch_index(Texts({"https://hub/i.ref": "<html>\n</html>"}), "https://hub/i.ref")


def test_a_base_config() -> None:
    base = read_base(
        """
name: base
urls:
config_file: |
  backend: llama-cpp
  template: {chat: chat}
prompt_templates:
  - {name: chat, content: "{{.Input}}"}
files: [{filename: f, uri: "hf://a/b/f"}]
""",
        "base.yaml",
    )
    assert base.config_file == {"backend": "llama-cpp", "template": {"chat": "chat"}}
    assert base.prompt_templates == (Template("chat", "{{.Input}}"),)
    assert base.files == (File("f", "hf://a/b/f"),)


@pytest.mark.parametrize("text", ["[a]", "config_file: 'a: [b'", "prompt_templates: [{name: a}]", "files: [{uri: u}]"])
def test_a_wrong_base_config_is_refused_with_its_address(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^hf://base\.yaml: "):
        read_base(text, "hf://base.yaml")


def test_names_are_found_in_any_case() -> None:
    entries = [Entry("Tiny"), Entry("other")]
    assert find(entries, "tIny") is entries[0]
    with pytest.raises(ModelNotFound, match="'absent'"):
        find(entries, "absent")


def test_merge_goes_into_maps_and_replaces_the_rest() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2], "e": 4}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
        "e": 4,
    }


def test_the_starter_gallery_has_no_problems() -> None:
    index = read_index(STARTER.read_text(), str(STARTER))
    assert index.entries
    assert index.problems == []
