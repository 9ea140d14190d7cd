"""The arrows between modules: read from the syntax trees, and seen in a process of its own."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

from distill.data import datasets
from tests.conftest import ROOT

PACKAGES = ("distill", "teachers", "students", "configs")

# Inside distill, lowest first: a module imports from earlier rows, or from its own row as long as
# no cycle arises. A name stands for everything below it.
LAYERS = (
  ("errors",),
  ("spec", "registry", "tensorfile", "processes"),
  ("signals", "losses", "similarity", "statistics", "numerals", "agreement", "augment"),
  ("nn",),
  ("models", "published", "merge"),
  (
    "embeddings",
    "embedding_store",
    "baselines",
    "probes",
    "traits",
    "rhythm",
    "ranking",
    "retrieval",
    "plots",
    "calibration",
  ),
  ("beats", "quality", "data"),
  ("objectives", "contrastive", "aim", "masked_envelope", "joint"),
  ("config", "checkpoint", "state", "train"),
  ("evaluate", "report"),
  ("comparison", "comparison_plots", "comparison_report", "layer_plots"),
  ("workdir",),
  ("frozen", "controls"),
  ("tables", "fold_training"),
  ("rivals",),
  ("stages",),
  ("missing", "day", "outside", "ship", "benchmark"),
  ("finetune",),
  ("retention", "layer_probe", "export"),
  ("live",),
  ("cli",),
)

# What an encoder family may know of distill: the signal, the layers, how public weights are read.
# Nothing of data sets, training, judging or configs, so that a family serves all of them.
ENCODERS_MAY_IMPORT = ("errors", "spec", "signals", "nn", "published")


def _modules() -> dict[str, pathlib.Path]:
  paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
  names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
  return {name.removesuffix(".__init__"): path for name, path in zip(names, paths)}


MODULES = _modules()


def _imports(path: pathlib.Path) -> set[str]:
  """Full names that a file imports, at its top or inside a function."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path.name} has a relative import"
      # `from package import module` is an arrow to the module, not to the package.
      full = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name if name in MODULES else str(node.module) for name in full}
  return found


ARROWS = {name: _imports(path) for name, path in MODULES.items()}


def _layer(module: str) -> int:
  part = module.split(".")[1]
  rows = [i for i, row in enumerate(LAYERS) if part in row]
  assert rows, f"{module} stands in no row of LAYERS: say where it belongs"
  return rows[0]


def _package(name: str) -> str:
  return name.partition(".")[0]


def test_the_trees_are_read():
  assert len(MODULES) > 50
  assert "distill.workdir" in ARROWS["distill.cli"], "an import inside a function counts"
  assert "distill.signals" in ARROWS["distill.nn.encoder"], "from distill import signals"


@pytest.mark.parametrize("module", [name for name in MODULES if _package(name) == "distill"])
def test_distill_knows_no_teacher_student_or_config(module):
  assert not [name for name in ARROWS[module] if _package(name) in PACKAGES[1:]]


def test_only_the_registry_turns_a_config_string_into_a_module():
  allowed = {
    "distill.registry",
    "distill.data.datasets",  # its own table of builders
    "distill.data.tables",  # packages that only some file formats need
    "distill.export",  # likewise
  }
  users = {
    module
    for module, path in MODULES.items()
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Attribute) and node.attr in ("import_module", "__import__")
  }
  assert "distill.registry" in users
  assert users <= allowed
  builders = datasets.DATASETS.values()
  assert all(name.startswith("distill.data.datasets.") for name in builders)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("distill.")])
def test_no_lower_module_imports_a_higher_one(module):
  higher = [
    name for name in ARROWS[module] if name.startswith("distill.") and _layer(name) > _layer(module)
  ]
  assert not higher


def test_no_modules_import_each_other_in_a_circle():
  done: set[str] = set()

  def walk(module: str, path: tuple[str, ...]) -> None:
    assert module not in path, " -> ".join((*path[path.index(module) :], module))
    if module in done:
      return
    for name in sorted(ARROWS[module] & set(MODULES)):
      walk(name, (*path, module))
    done.add(module)

  for module in MODULES:
    walk(module, ())


@pytest.mark.parametrize("side", ["teachers", "students"])
def test_encoders_know_signals_and_layers_only(side):
  for module in (name for name in MODULES if _package(name) == side):
    for name in ARROWS[module]:
      if _package(name) == "distill":
        assert name.split(".")[1] in ENCODERS_MAY_IMPORT, f"{module} imports {name}"
      assert _package(name) not in {*PACKAGES[1:]} - {side}, f"{module} imports {name}"


def test_configs_know_distill_config_only():
  for module in (name for name in MODULES if _package(name) == "configs"):
    ours = {name for name in ARROWS[module] if _package(name) in PACKAGES}
    assert ours <= {"distill.config"}, module


def test_nothing_imports_tensorflow_or_torch():
  for module, names in ARROWS.items():
    assert not {"tensorflow", "torch", "transformers"} & set(map(_package, names)), module


def test_tensorflow_and_torch_are_not_installed():
  assert importlib.util.find_spec("tensorflow") is None
  assert importlib.util.find_spec("torch") is None


def test_every_module_loads_where_tensorflow_and_torch_are_refused():
  modules = [name for name in MODULES if _package(name) != "configs"]
  code = f"""
import importlib, sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("tensorflow", "torch"):
      raise AssertionError(name + " is imported")
sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
  importlib.import_module(name)
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
