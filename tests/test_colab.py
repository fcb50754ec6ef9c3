"""The notebook runs from top to bottom, unchanged, on the CPU."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "colab" / "quickstart.ipynb"
# Run before the notebook's own cells: the default run, cut short.
SHORTEN = """
import jaxseg.config
from jaxseg.config import Model, Optim
short = jaxseg.config.Config(
    steps=8, eval_every=4, log_every=2, model=Model(widths=(4, 8)), optim=Optim(warmup_steps=1)
)
jaxseg.config.get_config = lambda: short
"""


@pytest.fixture
def executed(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as on a plain runtime
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORTEN))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    return notebook


def test_quickstart_runs(executed):
    """Its own assertions hold, it draws curves and a picture, and it shows the losses by hand."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    text = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    assert len(pictures) == 2
    for name in ("cross_entropy", "kl_divergence", "relative_entropy"):
        assert f"{name:17} by hand" in text
    assert "mean IoU" in text


def test_quickstart_is_kept_without_outputs():
    """Outputs would go stale, and hold paths of somebody's machine."""
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
