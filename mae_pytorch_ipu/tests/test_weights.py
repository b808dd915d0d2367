"""Published MAE's layouts and this app's own, heads, positions, and places where weights are found."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import create_model
from preparation import IMAGENET_MEAN, Preparation, read_preparation
from run.checkpoints import Checkpoints
from run.errors import UserError
from tests.references import autoencoder, classifier, equal, images, noise, randomised, same
from weight_config import arguments_from_tensors, own_config
from weights import load_weights, read_class_names, read_config, read_description, save_weights

HEAD = ("head.weight", "head.bias")
NORM = ("fc_norm.weight", "fc_norm.bias")


def is_decoder(name):
    return name.startswith(("decoder_", "mask_token"))


def published(path, model, *, encoder_only=False, **extra):
    """A file as published MAE has it."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not (encoder_only and is_decoder(name))}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, **extra}, path)
    return path


@pytest.mark.parametrize("form", ["published", "bare", "safetensors", "training script"])
def test_a_full_file_reconstructs(tmp_path, form):
    source, model = randomised(autoencoder()), autoencoder(seed=1)
    path = tmp_path / "mae_visualize_vit_base.pth"
    if form == "bare":
        torch.save(source.state_dict(), path)
    elif form == "safetensors":
        path = tmp_path / "mae.safetensors"
        save_file(source.state_dict(), path)
    else:
        prefix = "module." if form == "training script" else ""
        state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
        torch.save({"model": state, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 7}, path)
    report = load_weights(model, path)
    same(model(images(), noise())[1], source(images(), noise())[1])
    assert equal(model, source)
    assert report.source_layout == "mae"
    assert sorted(report.loaded) == sorted(source.state_dict())


def test_an_encoder_alone_can_not_reconstruct(tmp_path):
    path = published(tmp_path / "mae_pretrain_vit_base.pth", autoencoder(), encoder_only=True)
    model = autoencoder(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as refusal:
        load_weights(model, path)
    said = str(refusal.value)
    assert "holds an encoder without its decoder" in said
    for name in ("mae_visualize_vit_base.pth", "mae_pretrain_vit_base_full.pth", "facebook/vit-mae-base"):
        assert name in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("encoder_only", [True, False])
@pytest.mark.parametrize("kind", ["pool", "token", "probe"])
def test_fine_tuning_starts_from_the_encoder_with_a_new_head(tmp_path, encoder_only, kind):
    source = randomised(autoencoder())
    path = published(tmp_path / "mae.pth", source, encoder_only=encoder_only)
    model = classifier(7, seed=1, global_pool=kind == "pool", linear_probe=kind == "probe")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3)
    report = load_weights(model, path, new_head=True)
    theirs, ours = source.state_dict(), model.state_dict()
    for name in report.loaded:
        assert torch.equal(ours[name], theirs[name])
    kept = {"norm.weight", "norm.bias"} if kind == "pool" else set()
    left_out = {name for name in theirs if is_decoder(name)} if not encoder_only else set()
    assert set(report.unexpected) == left_out | kept
    head = {name for name in ours if name.startswith("head.")}
    assert set(report.reinitialised) == head | (set(NORM) if kind == "pool" else set())
    assert set(report.loaded) | set(report.reinitialised) == set(ours)
    if kind == "pool":
        assert torch.equal(model.fc_norm.weight, torch.ones(24))
        assert not model.fc_norm.bias.any()
    linear = model.head[1] if kind == "probe" else model.head
    assert 0 < linear.weight.abs().max() < (0.05 if kind == "probe" else 2e-4)
    assert not linear.bias.any()
    features = model(images())
    assert features.shape == (4, 7)


def test_features_are_those_of_pretraining(tmp_path):
    source = randomised(autoencoder())
    published(tmp_path / "mae.pth", source)
    model = classifier(0, seed=1, global_pool=False)
    load_weights(model, tmp_path / "mae.pth")
    same(model(images()), source.encode(images())[:, 0])


def test_a_published_fine_tuned_file(tmp_path):
    source = randomised(classifier())
    published(tmp_path / "mae_finetuned_vit_base.pth", source)
    model = classifier(seed=1)
    load_weights(model, tmp_path / "mae_finetuned_vit_base.pth")
    same(model(images()), source(images()))
    with pytest.raises(UserError, match="was fine-tuned with pooled patches"):
        load_weights(classifier(global_pool=False), tmp_path / "mae_finetuned_vit_base.pth")
    again = classifier(7, seed=1)
    report = load_weights(again, tmp_path / "mae_finetuned_vit_base.pth", new_head=True)
    assert report.reinitialised == HEAD  # what pools the features is kept
    assert torch.equal(again.fc_norm.weight, source.fc_norm.weight)


def test_heads_of_another_kind(tmp_path):
    save_weights(classifier(global_pool=False), tmp_path / "token", "pth")
    save_weights(classifier(linear_probe=True), tmp_path / "probe", "pth")
    with pytest.raises(UserError, match="has another kind of head: build the model with its global_pool"):
        load_weights(classifier(), tmp_path / "token" / "model.pth")
    with pytest.raises(UserError, match="has another kind of head: build the model with its global_pool and linear"):
        load_weights(classifier(global_pool=False), tmp_path / "probe" / "model.pth")
    with pytest.raises(UserError, match="has no classification head: ask for a new one"):
        load_weights(classifier(), published(tmp_path / "mae.pth", autoencoder()))


def test_a_head_for_other_classes_is_replaced_only_if_asked_for(tmp_path):
    source = classifier(7)
    save_weights(source, tmp_path)
    model = classifier(5, seed=1)
    with pytest.raises(UserError, match="a head for 7 classes, the model for 5: ask for a new head"):
        load_weights(model, tmp_path)
    report = load_weights(model, tmp_path, new_head=True)
    assert report.reinitialised == HEAD
    assert equal(model, source, but=HEAD)


def test_a_linear_probe_keeps_its_statistics(tmp_path):
    source = classifier(linear_probe=True)
    source.train()(images())
    save_weights(source, tmp_path)
    model = create_model(**read_config(tmp_path)).eval()
    assert not load_weights(model, tmp_path).unexpected
    assert torch.equal(model(images()), source.eval()(images()))
    assert model.head[0].running_mean.any()


@pytest.mark.parametrize(
    "build",
    [
        lambda: autoencoder(gelu="tanh", norm_pix_loss=True, mask_ratio=0.5, in_channels=1, image_size=(8, 24)),
        lambda: autoencoder(decoder_depth=1, layer_norm_eps=1e-5),
        lambda: classifier(7, drop_path=0.25),
        lambda: classifier(3, linear_probe=True, global_pool=False, gelu="tanh"),
        lambda: classifier(0, global_pool=False),
    ],
)
def test_our_own_config_says_everything(tmp_path, build):
    model = randomised(build())
    save_weights(model, tmp_path)
    again = create_model(**read_config(tmp_path))
    report = load_weights(again, tmp_path)
    assert again.config == model.config
    assert equal(again, model)
    assert not report.notes
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["sizes"]["gelu"] == model.config.gelu
    assert content["model"] in ("mae_vit_base_patch16", "vit_base_patch16")


def test_the_config_names_the_size_it_knows(tmp_path):
    with torch.device("meta"):
        names = ("mae_vit_align_patch16", "mae_vit_large_patch16", "vit_huge_patch14")
        configs = {name: create_model(name).config for name in names}
    for name, config in configs.items():
        assert own_config(config, [])["model"] == name


def test_class_names_and_preparation_are_kept(tmp_path):
    preparation = Preparation(16, "direct", (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
    names = ["ant", "bee", "cat", "dog", "élan"]
    save_weights(classifier(), tmp_path, class_names=names, preparation=preparation)
    assert read_class_names(tmp_path) == names
    assert read_preparation(read_description(tmp_path), 16) == preparation
    save_weights(
        classifier(global_pool=False), tmp_path / "hf", "huggingface", class_names=names, preparation=preparation
    )
    assert read_class_names(tmp_path / "hf") == names
    assert read_preparation(read_description(tmp_path / "hf"), 16) == preparation
    published(tmp_path / "public" / "mae.pth", autoencoder())
    assert read_class_names(tmp_path / "public" / "mae.pth") == []
    assert read_preparation(read_description(tmp_path / "public" / "mae.pth"), 224).mean == IMAGENET_MEAN


def test_published_files_are_recognised_by_their_shapes(tmp_path):
    with torch.device("meta"):
        states = {name: create_model(name).state_dict() for name in ("mae_vit_base_patch16", "mae_vit_align_patch16")}
        states["vit_large_patch16"] = create_model("vit_large_patch16", num_classes=3).state_dict()
        states["encoder"] = {k: v for k, v in states["mae_vit_base_patch16"].items() if not is_decoder(k)}
    square = {"image_size": (224, 224), "in_channels": 3}
    for file, normalised in (("mae_visualize_vit_base.pth", False), ("mae_pretrain_vit_base_full.pth", True)):
        found = arguments_from_tensors(states["mae_vit_base_patch16"], tmp_path / file)
        assert found == {"name": "mae_vit_base_patch16", "norm_pix_loss": normalised, **square}
    place = tmp_path / "x.pth"
    assert arguments_from_tensors(states["mae_vit_align_patch16"], place)["name"] == "mae_vit_align_patch16"
    tuned = {"name": "vit_large_patch16", "num_classes": 3, "global_pool": True, "linear_probe": False, **square}
    assert arguments_from_tensors(states["vit_large_patch16"], place) == tuned
    encoder = {"name": "vit_base_patch16", "num_classes": 0, "global_pool": False, "linear_probe": False, **square}
    assert arguments_from_tensors(states["encoder"], place) == encoder
    with pytest.raises(UserError, match=r"patch_size 4, width 24, .* and no config.json that tells the heads"):
        read_config(published(tmp_path / "tiny.pth", autoencoder()))
    with pytest.raises(UserError, match="holds no ViT or MAE"):
        arguments_from_tensors({"blocks.0.norm1.weight": torch.zeros(3)}, place)


@pytest.mark.parametrize("layout", ["mae", "pth"])
def test_what_is_published_can_be_written(tmp_path, layout):
    source = randomised(autoencoder())
    save_weights(source, tmp_path, layout, encoder_only=True)
    if layout == "pth":
        content = torch.load(tmp_path / "model.pth", weights_only=True)
        assert list(content) == ["model"]
        state = content["model"]
        assert os.listdir(tmp_path) == ["model.pth"]
    else:
        state = load_file(tmp_path / "model.safetensors")
        assert read_config(tmp_path)["num_classes"] == 0
    assert set(state) == {name for name in source.state_dict() if not is_decoder(name)}
    assert len(state) == 6 + 12 * 3
    save_weights(source, tmp_path / "full", layout)
    model = autoencoder(seed=1)
    load_weights(model, tmp_path / "full" / ("model.pth" if layout == "pth" else "model.safetensors"))
    assert equal(model, source)


def test_dtype_of_the_model_stays(tmp_path):
    source = randomised(autoencoder())
    save_weights(source, tmp_path)
    model = autoencoder(seed=1).half()
    load_weights(model, tmp_path)
    assert equal(model, source.half())
    save_weights(model, tmp_path / "half")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("name", ["", "latest", "step-3", "checkpoints/latest"])
def test_our_own_runs(tmp_path, name):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    for step in (1, 3):
        model = autoencoder(seed=step)
        checkpoints.save(step, {}, writers={"weights": lambda folder, model=model: save_weights(model, folder)})
    path = tmp_path / "run" / name
    again = create_model(**read_config(path))
    load_weights(again, path)
    assert equal(again, autoencoder(seed=3))


def test_gelus_that_differ_are_told(tmp_path):
    save_weights(autoencoder(gelu="tanh"), tmp_path)
    assert load_weights(autoencoder(), tmp_path).notes == ("it was trained with gelu tanh, erf is used here",)
    path = published(tmp_path / "mae_visualize.pth", autoencoder())
    assert not load_weights(autoencoder(), path).notes
    (note,) = load_weights(autoencoder(gelu="tanh"), path).notes
    assert note.startswith("mae_visualize.pth does not say which GELU it was trained with, published MAE weights erf")


def test_without_strictness_names_are_only_reported(tmp_path):
    state = autoencoder().state_dict()
    state["dist_token"] = state.pop("norm.bias")
    torch.save(state, tmp_path / "weights.pth")
    report = load_weights(autoencoder(seed=1), tmp_path / "weights.pth", strict=False)
    assert report.missing == ("norm.bias",)
    assert report.unexpected == ("dist_token",)
    assert str(report).endswith("missing norm.bias; unexpected dist_token")


def test_an_interrupted_save_leaves_the_old_weights(tmp_path, monkeypatch):
    save_weights(autoencoder(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["config.json", "model.safetensors"]

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_weights(autoencoder(seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_refuses_what_it_can_not_write(tmp_path):
    with pytest.raises(UserError, match="unknown layout 'keras': choose one of mae, pth, timm, huggingface"):
        save_weights(autoencoder(), tmp_path, "keras")
    with pytest.raises(UserError, match="2 class names for 5 classes"):
        save_weights(classifier(), tmp_path, class_names=["ant", "bee"])
    assert not list(tmp_path.iterdir())
