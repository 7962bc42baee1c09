"""Labels in diffusers folders: what the last class embedding means, and models that are saved for one label."""

import json

import numpy as np
import pytest

from tests.tinyddpm.diffusers_format.small import NUMPY, OURS, change, random_model
from tinyddpm import classifier_free
from tinyddpm.diffusers_format import for_label, load_diffusers, save_diffusers, why_not
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig

CLASSES = OURS["oblong with classes"]


def images(config=CLASSES):
    return np.random.default_rng(0).standard_normal((2, *config.size, 1)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    """A folder with four class embeddings that does not say what the last of them means, as diffusers writes it."""
    save_diffusers(tmp_path / "out", random_model(CLASSES), Diffusion(Schedule.cosine(20)))
    path = tmp_path / "out/unet/config.json"
    values = json.loads(path.read_text())
    assert values.pop("_last_class") == "no label"
    path.write_text(json.dumps(values))
    return tmp_path / "out"


def test_a_choice_is_asked_for(saved):
    with pytest.raises(
        InputError, match=r'the last of the 4 class embeddings may .* last_class="label"\) or "no'
    ) as error:
        load_diffusers(saved, NUMPY)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="last_class must be one of no label, label, got 'class'"):
        load_diffusers(saved, NUMPY, last_class="class")


def test_no_label(saved):
    model, _ = load_diffusers(saved, NUMPY, last_class="no label")
    assert model.config == CLASSES
    np.testing.assert_array_equal(model(images(), 3), model(images(), 3, labels=np.array([3, 3])))


def test_label(saved, tmp_path):
    """Nothing is computed that the network was not trained for."""
    model, diffusion = load_diffusers(saved, NUMPY, last_class="label")
    assert (model.config.num_classes, model.config.no_label) == (4, False)
    other, _ = load_diffusers(saved, NUMPY, last_class="no label")
    labels = np.array([3, 0])
    np.testing.assert_array_equal(model(images(), 3, labels=labels), other(images(), 3, labels=labels))
    with pytest.raises(InputError, match=r'no embedding for "no label"; pass labels=, in 0 … 3'):
        model(images(), 3)
    with pytest.raises(InputError, match="labels 0 … 3 and none beyond; to train it, set label_dropout=0"):
        model(images(), 3, labels=np.array([4, 0]))
    with pytest.raises(InputError, match=r'guidance needs .* this one has no "no label"'):
        classifier_free(model, 2.0)
    with pytest.raises(InputError, match='no embedding for "no label"; choose one of 0 … 3'):
        for_label(model, None)
    save_diffusers(tmp_path / "again", model, diffusion)
    again, _ = load_diffusers(tmp_path / "again", NUMPY)
    assert again.config == model.config
    np.testing.assert_array_equal(again.params, model.params)


def test_a_mark_that_is_none(saved):
    change(saved / "unet/config.json", _last_class="sometimes")
    with pytest.raises(InputError, match="may be a class like the others"):
        load_diffusers(saved, NUMPY)


@pytest.mark.parametrize("label", [0, 2, None])
def test_a_model_for_one_label(label):
    model = random_model(CLASSES, "float64")
    plain = for_label(model, label)
    assert plain.config.num_classes is None
    x = images().astype(np.float64)
    labels = np.full(2, 3 if label is None else label)
    np.testing.assert_allclose(plain(x, 5), model(x, 5, labels=labels), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("label", [-1, 3, 1.5])
def test_labels_that_it_does_not_have(label):
    with pytest.raises(InputError, match="label must be a whole number in 0 … 2"):
        for_label(random_model(CLASSES), label)
    with pytest.raises(InputError, match="trained without classes"):
        for_label(random_model(OURS["Ho et al."]), 0)


def test_pipelines_draw_what_was_saved_for_a_label(tmp_path):
    """And fail on a model with classes, as the command says."""
    pytest.importorskip("torch", reason="compares with diffusers, which needs torch: pip install .[parity]")
    diffusers = pytest.importorskip("diffusers", reason="compares with diffusers: pip install .[parity]")
    model, diffusion = random_model(CLASSES), Diffusion(Schedule.cosine(20))
    for name, saved in (("labels", model), ("one", for_label(model, 1))):
        save_diffusers(tmp_path / name, saved, diffusion)
    pipelines = {name: diffusers.DDPMPipeline.from_pretrained(tmp_path / name) for name in ("labels", "one")}
    for pipeline in pipelines.values():
        pipeline.set_progress_bar_config(disable=True)
    assert pipelines["one"](num_inference_steps=2, output_type="np").images.shape == (1, 8, 16, 1)
    with pytest.raises(ValueError, match="class_labels should be provided"):
        pipelines["labels"](num_inference_steps=2)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (SimpleUNetConfig(), "cannot express a SimpleUNet"),
        (UNetConfig(attention_resolutions=(16, 8)), "num_heads=1"),
        (UNetConfig(time_embedding="input"), "time_embedding='resblock'"),
        (UNetConfig(channel_mults=(2, 4, 4)), "whose first must be 1"),
    ],
)
def test_what_cannot_be_saved_is_known_from_its_config(config, word):
    assert word in (why_not(config) or "")


@pytest.mark.parametrize("config", OURS.values())
def test_what_can_be_saved(config):
    assert why_not(config) is None
