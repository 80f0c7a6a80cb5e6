"""The page about a trained model: complete, self-contained, and readable by a browser."""

import re
import shutil
import subprocess

import pytest
import torch
from commands import assert_refused, called, finished
from PIL import Image

from convkan.interpret import feature_contributions
from convkan.models import create_model
from experiments import explain

FEW = ("--samples", 16, "--images", 2, "--edges", 1, "--searched", 8)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    flags = ("--epochs", 1, "--model_options.widths", "[2,2]", "--threads", 1, "--accelerator", "cpu")
    return finished(tmp_path_factory.mktemp("runs") / "tiny", *flags)


@pytest.fixture(scope="module")
def page(run_folder):
    Image.new("L", (20, 30), 200).save(run_folder / "grey.png")
    pictures = f"[{run_folder / 'grey.png'}]"
    assert called(explain, "--run", run_folder, "--image", pictures, *FEW) == 0
    return run_folder / "explain.html"


def test_page_is_complete_and_needs_no_other_file(page):
    text = page.read_text()
    for expected in ("test accuracy", "features.0.1", "head.1", "grey.png", "classified rightly", "Architecture", "R²"):
        assert expected in text or expected == "grey.png"  # the name of a picture is drawn
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert sum(source.startswith("data:") for source in sources) >= 9
    assert page.stat().st_size < 10 * 2**20


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a browser")
def test_page_opens_in_a_browser(page, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000"]
    shot = tmp_path / "page.png"
    subprocess.run(
        [browser, *flags, "--window-size=1200,3000", f"--screenshot={shot}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(shot) as image:
        assert len(image.convert("L").getcolors()) > 50, "the page is blank"


def test_what_cannot_be_explained_is_named(run_folder, tmp_path, call):
    for arguments, message in (
        ([], "run must be the folder"),
        (["--run", tmp_path], "does not exist"),
        (["--run", run_folder, "--images", 0], "images must be at least 1, got 0"),
    ):
        assert_refused(call(explain, *arguments), message)


def test_shares_of_a_layer_sum_to_the_rise_of_the_logit():
    model = create_model("kan_cnn", widths=[3, 4]).double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    features, shares = feature_contributions(model, model.features[-1], x, 3)
    with torch.no_grad():
        rise = model(x)[:, 3] - model(torch.zeros_like(x))[:, 3]
    assert features.shape == shares.shape == (2, 4, 4, 4)
    torch.testing.assert_close(shares.flatten(1).sum(1), rise)


def test_layer_that_is_not_called_has_no_shares():
    model = create_model("kan_cnn", widths=[3])
    with pytest.raises(ValueError, match="layer must be one that the model calls"):
        feature_contributions(model, torch.nn.Linear(1, 1), torch.zeros(1, 1, 8, 8), 0)
