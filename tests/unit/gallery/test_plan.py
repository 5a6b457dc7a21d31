"""From a request to a plan: galleries, base configs, YAMLs, weights by their address."""

import json

import pytest

from deployments.errors import ConfigInvalid, InvalidRequest, ModelNotFound
from gallery.index import Entry, Template, find
from gallery.names import model_name
from gallery.plan import Plan, resolve
from gallery.request import File, InstallRequest
from gallery.settings import Gallery
from gallery.sources.base import Content, Layers, Listed, Whole


class Remote:
    """Some bytes at a source."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size, self.version, self.sha256, self.ranges = content, len(content), "", "", False

    async def read(self, start: int, end: int | None):
        yield self.content[start:end]


class Sources:
    """Texts, folders and files by their address."""

    def __init__(self, texts: dict[str, str] | None = None) -> None:
        self.texts = texts or {}
        self.listings: dict[str, list[Listed]] = {}
        self.contents: dict[str, Content] = {}

    async def text(self, uri: str) -> str:
        return self.texts[uri]

    async def listing(self, uri: str) -> list[Listed]:
        return self.listings[uri]

    async def locate(self, uri: str) -> Content:
        return self.contents[uri]

    def repository(self, uri: str, *paths: str) -> None:
        self.listings[uri] = [Listed(path, f"{uri}/{path}", 1000, f"sum of {path}") for path in paths]


class Galleries:
    def __init__(self, *entries: Entry, allow_pickles: bool = False) -> None:
        self.gallery = Gallery("g", "https://hub/index.yaml", allow_pickles)
        self.entries = entries

    async def find(self, name: str) -> tuple[Gallery, Entry]:
        return self.gallery, find(self.entries, name.rpartition("@")[2])


BASE = """
name: base
license: mit
urls: [https://base]
config_file: |
  backend: echo
  parameters: {top_k: 1, top_p: 0.5}
  stopwords: [a]
files: [{filename: base.txt, uri: "hf://a/b/base.txt"}]
prompt_templates: [{name: chat, content: c}]
"""


async def planned(request: InstallRequest, sources: Sources | None = None, galleries: Galleries | None = None) -> Plan:
    plan = await resolve(request, sources or Sources(), galleries or Galleries())
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    return plan


async def test_an_entry_varies_its_base_and_the_request_varies_both() -> None:
    entry = Entry(
        "Org/Tiny",
        url="https://hub/base.yaml",
        overrides={"parameters": {"top_k": 2, "model": "w.gguf"}, "stopwords": ["b"]},
        files=(File("w.gguf", "hf://a/b/w.gguf", "ab"),),
        license="apache-2.0",
        urls=("https://entry",),
        tags=("t",),
    )
    request = InstallRequest(
        id="g@org/tiny",
        overrides={"parameters": {"top_k": 3}, "foo": "bar"},
        files=(File("extra.yaml", "https://x/extra.yaml"), File("w.gguf", "https://mirror/w.gguf", "ab")),
    )
    plan = await planned(request, Sources({"https://hub/base.yaml": BASE}), Galleries(entry))
    assert plan.config == {
        "name": "Org__Tiny",
        "backend": "echo",
        "parameters": {"top_k": 3, "top_p": 0.5, "model": "w.gguf"},
        "stopwords": ["b"],
        "foo": "bar",
    }
    assert plan.files == (
        File("base.txt", "hf://a/b/base.txt"),
        File("w.gguf", "https://mirror/w.gguf", "ab"),
        File("extra.yaml", "https://x/extra.yaml"),
    )
    assert plan.templates == (Template("chat", "c"),)
    assert (plan.name, plan.gallery, plan.entry) == ("Org__Tiny", "g", "Org/Tiny")
    assert (plan.license, plan.urls, plan.tags) == ("apache-2.0", ("https://base", "https://entry"), ("t",))
    assert any("foo: unknown key" in warning for warning in plan.warnings)


async def test_an_entry_by_another_name_remembers_where_it_came_from() -> None:
    plan = await planned(
        InstallRequest(id="tiny", name="mine"), galleries=Galleries(Entry("Tiny", overrides={"backend": "echo"}))
    )
    assert (plan.name, plan.entry, plan.config) == ("mine", "Tiny", {"name": "mine", "backend": "echo"})
    assert plan.warnings == ()


async def test_an_entry_that_is_not_there() -> None:
    with pytest.raises(ModelNotFound):
        await planned(InstallRequest(id="tiny"))


async def test_a_base_config_by_its_url() -> None:
    sources = Sources({"github:o/r/base.yaml@main": BASE})
    plan = await planned(InstallRequest(url="github:o/r/base.yaml@main", name="bert"), sources)
    assert plan.config is not None
    assert plan.config["name"] == "bert"
    assert (await planned(InstallRequest(url="github:o/r/base.yaml@main"), sources)).name == "base"


async def test_the_first_way_that_is_asked_for_decides() -> None:
    request = InstallRequest(config_url="https://h/a.yaml", url="https://h/base.yaml", config_file={"name": "c"})
    plan = await planned(request, Sources({"https://h/a.yaml": "name: a\nbackend: echo", "https://h/base.yaml": BASE}))
    assert plan.name == "a"


async def test_a_config_in_the_request() -> None:
    plan = await planned(InstallRequest(config_file={"backend": "echo"}, name="n", overrides={"threads": 2}))
    assert plan.config == {"name": "n", "backend": "echo", "threads": 2}


async def test_addresses_in_a_yaml_become_files() -> None:
    text = """
name: hermes
backend: llama-cpp
mmproj: https://h/mm.gguf?download=true
draft_model: draft.gguf
lora_adapters: [hf://a/b/lora.gguf, here.gguf]
parameters: {model: "huggingface://a/b/sub/w.gguf@main"}
download_files:
  - {filename: sub/extra.bin, uri: "https://h/extra.bin", sha256: ab}
  - {filename: mm.gguf, uri: "https://h/mm.gguf", sha256: cd}
"""
    plan = await planned(InstallRequest(config_url="https://h/hermes.yaml"), Sources({"https://h/hermes.yaml": text}))
    assert plan.config is not None
    assert plan.config["parameters"]["model"] == "w.gguf"
    assert plan.config["mmproj"] == "mm.gguf"
    assert plan.config["draft_model"] == "draft.gguf"
    assert plan.config["lora_adapters"] == ["lora.gguf", "here.gguf"]
    assert plan.files == (
        File("sub/extra.bin", "https://h/extra.bin", "ab"),
        File("mm.gguf", "https://h/mm.gguf", "cd"),
        File("w.gguf", "huggingface://a/b/sub/w.gguf@main"),
        File("lora.gguf", "hf://a/b/lora.gguf"),
    )


@pytest.mark.parametrize("text", ["- {name: a}\n- {name: b}", "just text", "a: [b"])
async def test_a_config_url_that_is_not_one_models_yaml(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^https://h/a\.yaml: "):
        await planned(InstallRequest(config_url="https://h/a.yaml"), Sources({"https://h/a.yaml": text}))


@pytest.mark.parametrize("request_", [InstallRequest(), InstallRequest(name="a"), InstallRequest(config_file={})])
async def test_nothing_to_install(request_: InstallRequest) -> None:
    with pytest.raises(InvalidRequest, match="nothing to install"):
        await planned(request_)


@pytest.mark.parametrize("name", ["../x", ".x", "a\\b", "a\nb", "x" * 300, "Jobs", "galleries", " "])
async def test_names_that_no_model_can_have(name: str) -> None:
    with pytest.raises(InvalidRequest):
        model_name(name)


async def test_pickles_are_allowed_to_the_gallery_alone() -> None:
    entry = Entry("a", overrides={"backend": "echo"}, files=(File("w.pth", "https://h/w.pth"),))
    trusted = Galleries(entry, allow_pickles=True)
    assert (await planned(InstallRequest(id="a"), galleries=trusted)).allow_pickles
    added = InstallRequest(id="a", files=(File("x.pth", "https://evil/x.pth"),))
    assert not (await planned(added, galleries=trusted)).allow_pickles
    moved = InstallRequest(id="a", overrides={"parameters": {"model": "https://evil/x.pth"}})
    assert not (await planned(moved, galleries=trusted)).allow_pickles
    assert not (await planned(InstallRequest(id="a"), galleries=Galleries(entry))).allow_pickles


# ---- weights by their address ----------------------------------------------------------------------------------------


async def imported(uri: str, sources: Sources | None = None, **fields: object) -> Plan:
    return await planned(InstallRequest(weights_uri=uri, **fields), sources)


async def test_one_weights_file() -> None:
    plan = await imported("https://h/Tiny.Q4_K_M.gguf?download=true")
    assert plan.config == {
        "name": "Tiny.Q4_K_M",
        "backend": "llama-cpp",
        "parameters": {"model": "Tiny.Q4_K_M.gguf"},
        "template": {"use_tokenizer_template": True},
    }
    assert plan.files == (File("Tiny.Q4_K_M.gguf", "https://h/Tiny.Q4_K_M.gguf?download=true"),)
    assert plan.warnings == ()


async def test_split_weights_are_all_fetched() -> None:
    plan = await imported("hf://a/b/w-00002-of-00003.gguf@main")
    assert [file.uri for file in plan.files] == [f"hf://a/b/w-0000{i}-of-00003.gguf@main" for i in (1, 2, 3)]
    assert plan.name == "w"
    assert plan.config is not None
    assert plan.config["parameters"]["model"] == "w-00001-of-00003.gguf"


async def test_a_yaml_by_its_address() -> None:
    plan = await imported("https://h/m.yaml", Sources({"https://h/m.yaml": "name: m\nbackend: echo"}))
    assert plan.config == {"name": "m", "backend": "echo"}
    assert (await imported("https://h/b.yaml", Sources({"https://h/b.yaml": BASE}))).name == "base"


async def test_weights_whose_backend_is_not_clear() -> None:
    with pytest.raises(InvalidRequest, match="which backend"):
        await imported("https://h/voice.onnx")
    plan = await imported("https://h/voice.onnx", overrides={"backend": "piper"})
    assert plan.files == (File("voice.onnx", "https://h/voice.onnx"),)


async def test_an_archive_has_a_folder_of_its_own() -> None:
    plan = await imported("https://h/voice-en.tar.gz", overrides={"backend": "piper"})
    assert plan.files == (File("voice-en/", "https://h/voice-en.tar.gz"),)
    assert plan.name == "voice-en"


async def test_of_a_gguf_repository_one_quantization_is_taken() -> None:
    sources = Sources()
    sources.repository(
        "hf://o/Tiny-GGUF", "README.md", "Tiny-F16.gguf", "Tiny-Q8_0.gguf", "Tiny-IQ4_XS.gguf", "Tiny-Q4_K_M.gguf",
        "Tiny-Q4_0.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf", "imatrix-Q4_K_M.gguf",
    )  # fmt: skip
    plan = await imported("hf://o/Tiny-GGUF", sources)
    assert [(file.filename, file.uri) for file in plan.files] == [
        ("Tiny-Q4_K_M.gguf", "hf://o/Tiny-GGUF/Tiny-Q4_K_M.gguf"),
        ("Tiny-Q4_K_M.mmproj.gguf", "hf://o/Tiny-GGUF/mmproj-F16.gguf"),
    ]
    assert plan.files[0].sha256 == "sum of Tiny-Q4_K_M.gguf"
    assert plan.name == "Tiny-Q4_K_M"
    assert plan.config is not None
    assert plan.config["mmproj"] == "Tiny-Q4_K_M.mmproj.gguf"


async def test_split_files_of_a_repository_stay_together() -> None:
    sources = Sources()
    names = [f"Q5_K_M/T-Q5_K_M-0000{i}-of-00002.gguf" for i in (2, 1)]
    sources.repository("hf://o/T", "Q8_0/T-Q8_0.gguf", *names)
    plan = await imported("hf://o/T", sources)
    assert [file.filename for file in plan.files] == ["T-Q5_K_M-00001-of-00002.gguf", "T-Q5_K_M-00002-of-00002.gguf"]
    assert plan.name == "T-Q5_K_M"


@pytest.mark.parametrize(
    ("paths", "backend", "taken"),
    [
        (
            ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", ".gitattributes", "README.md",
             "onnx/model.onnx", "tf_model.h5", "original/consolidated.00.pth"],
            "transformers",
            ["config.json", "model.safetensors", "tokenizer.json"],
        ),
        (
            ["modules.json", "config.json", "1_Pooling/config.json", "model.safetensors", "openvino/model.xml"],
            "sentence-transformers",
            ["modules.json", "config.json", "1_Pooling/config.json", "model.safetensors"],
        ),
        (
            ["model_index.json", "unet/config.json", "unet/m.safetensors", "unet/m.fp16.safetensors", "unet/m.bin",
             "v1.safetensors"],
            "diffusers",
            ["model_index.json", "unet/config.json", "unet/m.safetensors"],
        ),
        (["config.json", "model.bin", "vocabulary.txt"], "faster-whisper",
         ["config.json", "model.bin", "vocabulary.txt"]),
        (["config.json", "pytorch_model.bin"], "transformers", ["config.json", "pytorch_model.bin"]),
    ],
)  # fmt: skip
async def test_a_repository_of_another_kind_has_a_folder(paths: list[str], backend: str, taken: list[str]) -> None:
    sources = Sources()
    sources.repository("hf://owner/repo@v1", *paths)
    plan = await imported("hf://owner/repo@v1", sources)
    assert [file.filename for file in plan.files] == [f"repo/{path}" for path in taken]
    assert plan.config is not None
    assert (plan.name, plan.config["backend"], plan.config["parameters"]) == ("repo", backend, {"model": "repo"})


async def test_a_repository_without_weights() -> None:
    sources = Sources()
    sources.repository("hf://o/r", "data.csv")
    with pytest.raises(InvalidRequest, match="holds no weights"):
        await imported("hf://o/r", sources)


async def test_a_model_of_ollama() -> None:
    plan = await imported("ollama://gemma:2b")
    assert plan.files == (File("gemma__2b.gguf", "ollama://gemma:2b"),)
    assert plan.config is not None
    assert plan.config["backend"] == "llama-cpp"


async def test_an_image_of_one_file_and_one_of_layers() -> None:
    sources = Sources()
    sources.contents["oci://h/gguf:1"] = Whole(Remote(b"GGUF\3\0\0\0"))
    sources.contents["oci://h/image:1"] = Layers((Remote(b""),))
    plan = await imported("oci://h/gguf:1", sources)
    assert plan.config is not None
    assert plan.config["backend"] == "llama-cpp"
    assert plan.files == (File("h__gguf__1.gguf", "oci://h/gguf:1"),)
    plan = await imported("oci://h/image:1", sources, overrides={"backend": "transformers"})
    assert plan.files == (File("h__image__1/", "oci://h/image:1"),)
