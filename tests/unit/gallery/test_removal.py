"""Deleting models: in order, again after a kill, and without what others use."""

import asyncio
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, ModelNotFound, NotReady
from gallery import records
from gallery.locks import locked
from gallery.plan import Plan, Template
from gallery.removal import Removal, carry_out, plan_removal, remove
from gallery.request import File
from gallery.status import Phase, Silent


class Models:
    """A server that notes what it is told, and what was there then."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        self.folder = folder
        self.fails = fails
        self.told: list[tuple[str, list[str]]] = []

    async def reload(self) -> None:
        self.told.append(("reload", visible(self.folder)))

    async def removed(self, name: str) -> None:
        self.told.append((name, visible(self.folder)))
        if self.fails:
            raise NotReady("the controller is away")


def visible(folder: Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(".") and "/." not in name)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def put(folder: Path, **files: str) -> None:
    """Files by name; `__` is a slash, `_` before the suffix a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def install(folder: Path, name: str, *files: str, template: str = "") -> None:
    """As the installer leaves it."""
    text = f"name: {name}\nbackend: llama-cpp\nparameters: {{model: {files[0]}}}\n"
    templates = (Template(template, "t"),) if template else ()
    plan = Plan(name, {"name": name}, tuple(File(file, "u") for file in files), templates)
    for file in (*files, *([f"{template}.tmpl"] if template else [])):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    (folder / f"{name}.yaml").write_text(text)
    records.write(folder, plan, records.record_of(plan, {}, {}, text), text)


async def test_nothing_is_left_of_an_installed_model(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "tiny.gguf", "deep/er/vocab.json", template="chat")
    models, progress = Models(tmp_path), Phases()
    await remove("tiny", tmp_path, models, progress)
    assert everything(tmp_path) == []
    assert progress.phases == [Phase.UNLOADING, Phase.DELETING]
    # Weights that would be a model without the YAML are out of sight with it; the others wait for the replicas' end.
    assert models.told == [(what, ["chat.tmpl", "deep/er/vocab.json"]) for what in ("reload", "tiny")]


class Phases(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.phases: list[Phase] = []

    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)


async def test_what_another_model_uses_stays(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "shared.gguf", "folder/a", "folder/b", "own.bin", template="chat")
    put(
        tmp_path,
        other_yaml="name: other\nbackend: x\nparameters: {model: folder}\ntemplate: {chat: chat}\n",
        third_yaml="name: third\nalso_unknown: shared.gguf\n",
    )
    await remove("tiny", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == [
        "chat.tmpl", "folder", "folder/a", "folder/b", "other.yaml", "shared.gguf", "third.yaml",
    ]  # fmt: skip


async def test_what_a_running_installation_needs_stays(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "shared.gguf", "other.gguf")
    (tmp_path / "._install_new.json").write_text('{"name": "new", "claims": ["shared.gguf"], "placed": {}}')
    async with locked(tmp_path, "other.gguf"):  # somebody is at work on it
        async with asyncio.timeout(10):
            await remove("tiny", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == ["._install_new.json", "other.gguf", "shared.gguf"]


async def test_a_hand_written_model_goes_with_its_files(tmp_path: Path) -> None:
    put(
        tmp_path,
        mine_yaml="name: nice name\nmmproj: mm.gguf\nparameters: {model: w.gguf}\nlora_adapters: [l.gguf, ../out.gguf]",
        w_gguf="",
        w__x="",
        mm_gguf="",
        l_gguf="",
    )
    (tmp_path / "w.gguf.tmpl").touch()
    await remove("nice name", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == ["w", "w/x"]


async def test_a_config_that_the_server_refuses_can_be_deleted(tmp_path: Path) -> None:
    put(tmp_path, odd_yaml="name: odd\nfoo: bar\nparameters: {model: w.gguf}", w_gguf="")
    await remove("odd", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == []


async def test_loose_weights_go_by_their_file_name(tmp_path: Path) -> None:
    put(tmp_path, a_gguf="", b_gguf="", other_yaml="name: other\nparameters: {model: b.gguf}")
    models = Models(tmp_path)
    await remove("a.gguf", tmp_path, models, Silent())
    assert everything(tmp_path) == ["b.gguf", "other.yaml"]
    assert [what for what, _ in models.told] == ["reload", "a.gguf"]
    with pytest.raises(ModelNotFound, match="a file of the model 'other'"):
        await remove("b.gguf", tmp_path, models, Silent())


async def test_split_loose_weights_go_together(tmp_path: Path) -> None:
    for i in (1, 2, 3):
        (tmp_path / f"w-0000{i}-of-00002.gguf").touch()
    await remove("w-00001-of-00002.gguf", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == ["w-00003-of-00002.gguf"]


async def test_the_name_that_it_was_installed_by_will_do(tmp_path: Path) -> None:
    install(tmp_path, "org__tiny", "tiny.gguf")
    models = Models(tmp_path)
    await remove("org/tiny", tmp_path, models, Silent())
    assert everything(tmp_path) == []
    assert models.told[-1][0] == "org__tiny"


async def test_an_alias_goes_alone(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "tiny.gguf")
    before = everything(tmp_path)
    put(tmp_path, short_yaml="name: short\nalias: tiny\nparameters: {model: tiny.gguf}")
    await remove("short", tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["absent", "../x", "a/b", "", ".", "other.yaml", ".hidden.gguf"])
async def test_a_model_that_is_not_there(tmp_path: Path, name: str) -> None:
    put(tmp_path, other_yaml="name: other")
    (tmp_path / ".hidden.gguf").touch()
    with pytest.raises(ModelNotFound):
        await plan_removal(name, tmp_path)


async def test_one_of_several_in_a_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path, list_yaml="- {name: a, backend: echo}\n- {name: b, backend: echo}\n")
    with pytest.raises(ConfigInvalid, match=r"a: list\.yaml defines several models"):
        await plan_removal("a", tmp_path)
    assert everything(tmp_path) == ["list.yaml"]


async def test_a_model_whose_replicas_do_not_end_is_put_back(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "tiny.gguf")
    before = everything(tmp_path)
    with pytest.raises(NotReady):
        await remove("tiny", tmp_path, Models(tmp_path, fails=True), Silent())
    assert everything(tmp_path) == before


async def test_a_killed_deletion_goes_on(tmp_path: Path) -> None:
    install(tmp_path, "tiny", "tiny.gguf", "sub/x")
    removal = await plan_removal("tiny", tmp_path)
    assert Removal.from_json(removal.to_json()) == removal

    class Hangs(Models):
        async def removed(self, name: str) -> None:
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    task = asyncio.create_task(carry_out(removal, tmp_path, Hangs(tmp_path), Silent()))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert visible(tmp_path) == ["sub/x"]
    await carry_out(removal, tmp_path, Models(tmp_path), Silent())
    assert everything(tmp_path) == []
    await carry_out(removal, tmp_path, Models(tmp_path), Silent())


async def test_files_that_the_gallery_installed_without_a_config(tmp_path: Path) -> None:
    plan = Plan("files", files=(File("w.gguf", "u"), File("notes.txt", "u")))
    put(tmp_path, w_gguf="", notes_txt="")
    records.write(tmp_path, plan, records.record_of(plan, {}, {}, ""), "")
    models = Models(tmp_path)
    await remove("files", tmp_path, models, Silent())
    assert everything(tmp_path) == []
    assert [what for what, _ in models.told] == ["reload", "w.gguf"]
