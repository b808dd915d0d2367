import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from models import create_model
from run.errors import UserError
from weights import load_weights, read_config, save_weights

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 40}


def theirs(labels=5, kind=transformers.ViTForImageClassification, **changes):
    """A Hugging Face ViT with every weight random."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}
    config = {**sizes, "image_size": 16, "patch_size": 4, "layer_norm_eps": 1e-6, **changes}
    torch.manual_seed(0)
    model = kind(transformers.ViTConfig(num_labels=labels, **config)).eval()
    return randomised(model)


def randomised(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def ours(num_classes=5, **changes):
    return create_model("vit_base_patch16_224", num_classes=num_classes, **{**TINY, **changes}).eval()


def images(height=16, width=16):
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(1))


def same(actual, expected):
    assert expected.abs().max() > 0.1  # logits that could tell
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def read_back(folder, kind=transformers.ViTForImageClassification):
    """The folder as transformers reads it, which must find every weight."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    return model.eval(), info["unexpected_keys"]


def test_logits_equal_hugging_faces(tmp_path):
    theirs().save_pretrained(tmp_path)
    model = ours()
    report = load_weights(model, tmp_path)
    same(model(images()), theirs()(images()).logits)
    assert report.source_layout == "huggingface"
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert not any((report.resized, report.missing, report.unexpected, report.reinitialised, report.notes))
    assert str(report) == f"{len(report.loaded)} tensors from {tmp_path} (huggingface layout)"


@pytest.mark.parametrize("image_size", [16, (8, 24)])
def test_transformers_reads_what_we_write(tmp_path, image_size):
    model = randomised(ours(image_size=image_size, hidden_dropout=0.1, layer_norm_eps=1e-5))
    save_weights(model, tmp_path, class_names=["ant", "bee", "cat", "dog", "élan"])
    loaded, unexpected = read_back(tmp_path)
    assert not unexpected
    height, width = model.config.image_size
    same(loaded(images(height, width)).logits, model(images(height, width)))
    assert loaded.config.id2label[4] == "élan"
    assert loaded.config.label2id["bee"] == 1
    assert loaded.config.hidden_dropout_prob == 0.1
    assert loaded.config.layer_norm_eps == 1e-5


def test_files_have_the_names_that_transformers_writes(tmp_path):
    theirs().save_pretrained(tmp_path / "theirs")
    save_weights(ours(), tmp_path / "ours")
    written = {place: load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "ours")}
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in written.values()]
    assert shapes[0] == shapes[1]
    assert "vit.encoder.layer.2.attention.attention.query.weight" in shapes[1]


def test_the_whole_base_model(tmp_path):
    config = transformers.ViTConfig(num_labels=10, layer_norm_eps=1e-6)
    torch.manual_seed(0)
    reference = transformers.ViTForImageClassification(config).eval()
    reference.save_pretrained(tmp_path)
    model = create_model("vit_base_patch16_224", num_classes=10).eval()
    load_weights(model, tmp_path)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        same(model(image), reference(image).logits)


def test_dropout_stands_where_hugging_face_has_it(tmp_path):
    changes = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    reference = theirs(**changes).train()
    reference.save_pretrained(tmp_path)
    model = ours(hidden_dropout=0.3, attention_dropout=0.2).train()
    load_weights(model, tmp_path)
    torch.manual_seed(7)
    expected = reference(images()).logits
    torch.manual_seed(7)
    same(model(images()), expected)
    assert not torch.allclose(model(images()), expected)  # they did drop


def test_training_gradients_equal_hugging_faces(tmp_path):
    reference, model = theirs(), ours()
    reference.save_pretrained(tmp_path)
    load_weights(model, tmp_path)
    labels = torch.tensor([0, 3, 4, 1])
    reference(images(), labels=labels).loss.backward()
    torch.nn.functional.cross_entropy(model(images()), labels).backward()
    query = reference.vit.layers[0].attention.q_proj.weight.grad
    torch.testing.assert_close(model.blocks[0].attention.qkv.weight.grad[:24], query, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        model.embeddings.positions.grad, reference.vit.embeddings.position_embeddings.grad, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("form", ["sharded", "bin", "names in memory", "single file"])
def test_every_form_of_file(tmp_path, form):
    reference = theirs()
    reference.save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "1GB")
    path = tmp_path
    if form == "sharded":
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    elif form == "bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    elif form == "names in memory":
        path = tmp_path / "weights.pth"
        torch.save(reference.state_dict(), path)
    else:
        path = tmp_path / "model.safetensors"
    model = ours()
    load_weights(model, path)
    same(model(images()), reference(images()).logits)


def test_a_bare_model_becomes_a_backbone(tmp_path):
    reference = theirs(kind=transformers.ViTModel)
    reference.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no classification head: ask for a new one"):
        load_weights(ours(), tmp_path)
    model = ours()
    report = load_weights(model, tmp_path, new_head=True)
    assert report.reinitialised == ("head.weight", "head.bias")
    assert report.unexpected == ("representation.bias", "representation.weight")
    model.head = torch.nn.Identity()
    same(model(images()), reference(images()).last_hidden_state[:, 0])


def test_a_bare_models_pooler_is_the_representation_layer(tmp_path):
    reference = theirs(kind=transformers.ViTModel)
    reference.save_pretrained(tmp_path / "theirs")
    model = ours(num_classes=0, representation_size=24)
    load_weights(model, tmp_path / "theirs")
    same(model(images()), reference(images()).pooler_output)


@pytest.mark.parametrize("size", [24, 7])
def test_a_representation_layer_is_kept(tmp_path, size):
    model = randomised(ours(representation_size=size))
    save_weights(model, tmp_path)
    again = create_model(**read_config(tmp_path)).eval()
    load_weights(again, tmp_path)
    assert torch.equal(again(images()), model(images()))
    loaded, unexpected = read_back(tmp_path, transformers.ViTModel)
    assert sorted(unexpected) == ["classifier.bias", "classifier.weight"]
    same(model.head(loaded(images()).pooler_output), model(images()))
    with pytest.raises(UserError, match=r"representation\.weight, for which the model has no place"):
        load_weights(ours(), tmp_path)


def test_a_model_is_built_from_its_folder_alone(tmp_path):
    changes = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "image_size": [8, 24]}
    reference = theirs(**changes)
    reference.save_pretrained(tmp_path)
    arguments = read_config(tmp_path)
    assert arguments["image_size"] == (8, 24)
    model = create_model(**arguments).eval()
    load_weights(model, tmp_path)
    same(model(images(8, 24)), reference(images(8, 24)).logits)
    assert (model.config.hidden_dropout, model.config.attention_dropout) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [(3, "ViTForImageClassification", 3), (2, "ViTForImageClassification", 2), (2, "ViTModel", 0)],
)
def test_number_of_classes_from_config(tmp_path, labels, kind, classes):
    theirs(labels, getattr(transformers, kind)).save_pretrained(tmp_path)
    assert read_config(tmp_path)["num_classes"] == classes


def test_read_config_names_a_known_size(tmp_path):
    transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768).save_pretrained(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert read_config(tmp_path)["name"] == "vit_tiny_patch16_224"
    assert read_config(tmp_path)["layer_norm_eps"] == 1e-12  # Hugging Face's default


def test_what_a_config_leaves_out_is_hugging_faces_default(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit", "patch_size": null}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    defaults, arguments = transformers.ViTConfig(), read_config(tmp_path)
    assert arguments.pop("name") == "vit_base_patch16_224"
    assert arguments == {
        "image_size": (defaults.image_size, defaults.image_size),
        "patch_size": defaults.patch_size,
        "in_channels": defaults.num_channels,
        "num_classes": 0,
        "width": defaults.hidden_size,
        "depth": defaults.num_hidden_layers,
        "heads": defaults.num_attention_heads,
        "mlp_width": defaults.intermediate_size,
        "layer_norm_eps": defaults.layer_norm_eps,
    }


def test_differences_that_hardly_matter_are_noted(tmp_path):
    theirs(layer_norm_eps=1e-12, hidden_act="gelu_new").save_pretrained(tmp_path)
    report = load_weights(ours(), tmp_path)
    assert report.notes == (
        "it was trained with gelu_new, an approximation of the GELU used here",
        "it was trained with layer_norm_eps 1e-12, 1e-06 is used here",
    )
    assert report.notes[1] in str(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [2, 2]}, "has patch_size 2, the model 4: build the model"),
        ({"patch_size": [4, 2]}, r"patch_size \[4, 2\], which should be one number"),
        ({"num_attention_heads": 2}, "has num_attention_heads 2, the model 3"),
        ({"num_hidden_layers": 2}, "has num_hidden_layers 2, the model 3"),
        ({"hidden_size": "24"}, "hidden_size 24, which should be one number"),
        ({"hidden_act": "relu"}, "hidden_act relu, the model the exact GELU"),
        ({"model_type": "swin"}, "of type swin, not a ViT"),
        ({"image_size": "large"}, "image_size large, which is no number"),
        ({"image_size": 20}, "positions for 16 patches, which make no 5×5 grid"),
    ],
)
def test_a_config_that_contradicts_the_model_is_refused(tmp_path, changes, message):
    save_weights(ours(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=message):
        load_weights(ours(), tmp_path)
