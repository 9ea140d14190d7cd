"""Notebooks run from the first cell to the last, at a size that fits a test."""

import os
import pathlib

import nbclient
import nbformat

from tests import runs
from tests.conftest import ROOT


def test_quickstart_runs_to_its_plot(tmp_path, monkeypatch):
  # The kernel is a process of its own, with one device.
  monkeypatch.setenv("XLA_FLAGS", runs.COMPILE_FAST)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  notebook = nbformat.read(ROOT / "notebooks" / "00_quickstart.ipynb", as_version=4)
  text = "\n".join(cell.source for cell in notebook.cells)
  assert "configs/quickstart.py" in text
  for cell in notebook.cells:
    assert not cell.get("outputs"), "commit notebooks without outputs"
    cell.source = cell.source.replace(
      '"configs/quickstart.py"', f'"{ROOT}/configs/quickstart.py:smoke"'
    )
  monkeypatch.chdir(tmp_path)
  client = nbclient.NotebookClient(
    notebook,
    timeout=runs.HUNG_S,
    kernel_name="python3",
    resources={"metadata": {"path": str(tmp_path)}},
  )
  os.symlink(ROOT / "configs", tmp_path / "configs")
  client.execute()
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert any("heart rate MAE" in output.get("text", "") for output in outputs)
  assert (pathlib.Path(tmp_path) / "runs" / "notebook" / "report.html").is_file()
