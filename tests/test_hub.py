"""Models in a folder as on the Hugging Face Hub, with its own library; nothing here needs a network."""

import json
import shutil

import pytest
import torch

from convkan import Chebyshev
from convkan.grid import refine_grids
from convkan.interpret.plot import new_figure
from convkan.models import Description, Weights, get_weights, list_models, load_classifier, model_options, twin
from convkan.testing import kan_layers

hub = pytest.importorskip("huggingface_hub")
from convkan.hub import HubClassifier  # noqa: E402


def classifier(name="kan_vgg", record=None, **options):
    known = {"width": 2.0, "depths": (1, 1), "widths": (2, 3), "image_size": 12}
    options = {key: value for key, value in known.items() if key in model_options(name)} | options
    description = Description(name, 1, (12, 12), ["cat", "dog"], [0.4], [0.2], options)
    return HubClassifier(description.create().eval(), description, record)


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_every_model_of_the_registry_comes_back(name, tmp_path, monkeypatch):
    monkeypatch.setattr("convkan.hub.plot_edges", lambda layer, title: new_figure((1, 1)))  # a real one takes longer
    model, x = classifier(name), torch.randn(2, 1, 12, 12)
    model.save_pretrained(tmp_path)
    again = HubClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(x), model(x))
    assert not again.training
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert (tmp_path / "functions.png").exists() == (twin(name) != name)


def test_the_config_rebuilds_the_model_its_basis_included(tmp_path):
    model, x = classifier(basis=Chebyshev(2), record={"test_accuracy": 0.5}), torch.randn(2, 1, 12, 12)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {layer.basis for layer in kan_layers(Description.from_config(config).create())} == {Chebyshev(2)}
    (tmp_path / "config.json").write_text(json.dumps(config | {"class_names": ["tom", "rex"]}), encoding="utf-8")
    again = HubClassifier.from_pretrained(tmp_path)
    assert again.description.class_names == ["tom", "rex"]
    assert again.record == {"test_accuracy": 0.5}
    assert torch.equal(again(x), model(x))


def test_grids_come_back_as_they_have_become(tmp_path):
    model, x = classifier(), torch.randn(2, 1, 12, 12)
    refine_grids(model, 9)
    model.save_pretrained(tmp_path)
    assert torch.equal(HubClassifier.from_pretrained(tmp_path)(x), model(x))


def test_its_weights_are_a_file_of_ours_and_ours_are_one_of_its(tmp_path):
    packaged = get_weights("kan_mobilenet", "fashion_mnist")
    model = HubClassifier.of(packaged)
    model.save_pretrained(tmp_path / "hub")
    x = torch.randn(2, 1, 28, 28)
    network, description = load_classifier(tmp_path / "hub" / "model.safetensors")
    assert torch.equal(network(x), model(x))
    assert description == packaged.description()
    assert model.transforms() == packaged.transforms()
    assert Weights.of_file(tmp_path / "hub").record() == packaged.record()
    (tmp_path / "run").mkdir()
    shutil.copy(packaged.path, tmp_path / "run" / "model.safetensors")
    assert torch.equal(HubClassifier.from_pretrained(tmp_path / "run")(x), model(x))


class TestCard:
    def test_has_the_record_the_curves_and_the_licence(self, tmp_path):
        model = classifier(record={"test_accuracy": 0.75, "dataset": "pets", "epochs": 3})
        model.save_pretrained(tmp_path, model_card_kwargs={"license": "apache-2.0", "repo_id": "somebody/pets"})
        card = hub.ModelCard.load(tmp_path / "README.md")
        assert card.data.license == "apache-2.0"
        assert card.data.library_name == "convkan"
        (result,) = card.data.eval_results
        assert (result.metric_value, result.dataset_name) == (0.75, "pets")
        for part in ("| epochs | 3 |", "(functions.png)", 'from_pretrained("somebody/pets")', "cat, dog", "apache-2.0"):
            assert part in card.text

    def test_names_no_data_set_for_a_folder_of_images(self):
        card = classifier(record={"test_accuracy": 0.75, "dataset": "folder"}).generate_model_card()
        assert card.data.datasets is None
        assert card.data.eval_results[0].metric_value == 0.75

    def test_says_what_is_not_known(self):
        card = classifier("plain_cnn").generate_model_card()
        assert card.data.eval_results is None
        assert "None was kept with the weights." in card.text
        assert "It has no KAN layer" in card.text


def test_what_was_downloaded_loads_without_a_network(tmp_path):
    model, x, commit = classifier(), torch.randn(2, 1, 12, 12), "0" * 40
    stored = tmp_path / "models--somebody--pets"
    model.save_pretrained(stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit, encoding="utf-8")
    again = HubClassifier.from_pretrained("somebody/pets", cache_dir=tmp_path, local_files_only=True)
    assert torch.equal(again(x), model(x))


def test_pushing_uploads_what_is_saved(monkeypatch):
    uploaded = {}

    def create_repo(self, repo_id, **options):
        return hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **options):
        uploaded[repo_id] = {path.name for path in folder_path.iterdir()}
        return "a commit"

    monkeypatch.setattr(hub.HfApi, "create_repo", create_repo)  # the two calls that need a network
    monkeypatch.setattr(hub.HfApi, "upload_folder", upload_folder)
    assert classifier().push_to_hub("somebody/pets") == "a commit"
    assert uploaded == {"somebody/pets": {"config.json", "model.safetensors", "README.md", "functions.png"}}


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        HubClassifier.from_pretrained(tmp_path)


def test_a_model_that_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match="description must be of a classifier, got 'kan_unet'"):
        classifier("kan_unet")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "missing or unknown: colour"),
        ({"image_size": 3}, "image_size must be a height and a width, got 3"),
        ({"options": []}, r"options must be a mapping, got \[\]"),
    ],
)
def test_a_config_that_describes_no_model_is_refused_by_its_file(change, words, tmp_path, monkeypatch):
    monkeypatch.setattr("convkan.hub.plot_edges", lambda layer, title: new_figure((1, 1)))
    classifier().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=f"config.json does not describe a model: .*{words}"):
        HubClassifier.from_pretrained(tmp_path)
