import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import create_model
from models.positions import sine_cosine_table
from preparation import Preparation
from run.errors import UserError
from tests.references import autoencoder, classifier, hugging_face, images, noise, randomised, same
from weights import load_weights, read_config, save_weights


def read_back(folder, kind):
    """The folder as transformers reads it, which must find every weight and know each."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("normalised", [False, True])
def test_loss_prediction_and_mask_equal_transformers(tmp_path, normalised):
    theirs = hugging_face(norm_pix_loss=normalised)
    theirs.save_pretrained(tmp_path)
    model = create_model(**read_config(tmp_path)).eval()
    report = load_weights(model, tmp_path)
    expected = theirs(images(), noise=noise())
    loss, prediction, mask = model(images(), noise())
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)
    same(prediction, expected.logits)
    assert torch.equal(mask, expected.mask)
    assert model.config.norm_pix_loss is normalised
    assert report.source_layout == "huggingface"
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert not any((report.resized, report.missing, report.unexpected, report.reinitialised, report.notes))


def test_position_tables_are_those_of_transformers():
    decoder = hugging_face(image_size=24).decoder
    decoder.initialize_weights(36)
    assert decoder.decoder_pos_embed.max() == 1
    torch.testing.assert_close(sine_cosine_table(16, (6, 6)), decoder.decoder_pos_embed.data, rtol=0, atol=1e-7)


def test_gradients_equal_transformers(tmp_path):
    theirs, model = hugging_face(norm_pix_loss=True), autoencoder(norm_pix_loss=True)
    theirs.save_pretrained(tmp_path)
    load_weights(model, tmp_path)
    model(images(), noise(), loss_only=True).backward()
    theirs(images(), noise=noise()).loss.backward()
    with torch.no_grad():  # gradients in place of weights, to have them under the same names
        for parameter in [*theirs.parameters(), *model.parameters()]:
            parameter.copy_(parameter if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path)
    expected = autoencoder(norm_pix_loss=True)
    load_weights(expected, tmp_path)
    for (name, ours), reference in zip(model.named_parameters(), expected.parameters()):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("spelling", ["published", "transformers 5", "in memory"])
def test_all_spellings_of_the_names(tmp_path, spelling):
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    if spelling == "published":
        state = {
            name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): t for name, t in state.items()
        }
    elif spelling == "in memory":
        state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    model = autoencoder()
    load_weights(model, tmp_path)
    same(model(images(), noise())[1], theirs(images(), noise=noise()).logits)


@pytest.mark.parametrize("shape", [{}, {"in_channels": 1}, {"gelu": "tanh", "norm_pix_loss": True, "mask_ratio": 0.5}])
def test_transformers_reads_what_we_write(tmp_path, shape):
    model = randomised(autoencoder(**shape))
    save_weights(model, tmp_path, "huggingface")
    theirs = read_back(tmp_path, transformers.ViTMAEForPreTraining)
    pixels = images(channels=model.config.in_channels)
    same(theirs(pixels, noise=noise()).logits, model(pixels, noise())[1])
    assert torch.equal(theirs(pixels, noise=noise()).mask, model(pixels, noise())[2])
    again = create_model(**read_config(tmp_path))
    load_weights(again, tmp_path)
    assert again.config == model.config


def test_files_have_the_names_of_the_published_ones(tmp_path):
    save_weights(autoencoder(), tmp_path, "huggingface")
    names = set(load_file(tmp_path / "model.safetensors"))
    assert len(names) == 8 + 6 + 16 * 5  # per block query, key and value apart
    assert {
        "decoder.decoder_layers.1.attention.attention.query.weight",
        "vit.encoder.layer.2.output.dense.bias",
    } <= names


def test_an_encoder_goes_to_transformers_and_back(tmp_path):
    model = randomised(autoencoder())
    save_weights(model, tmp_path, "huggingface", encoder_only=True)
    theirs = read_back(tmp_path, transformers.ViTMAEModel)
    u = noise()
    seen = theirs(images(), noise=u).last_hidden_state
    same(model.encode(images(), u.argsort(1)[:, :4]), seen)
    assert read_config(tmp_path)["num_classes"] == 0
    theirs.save_pretrained(tmp_path / "theirs")
    tuned = classifier(7)
    report = load_weights(tuned, tmp_path / "theirs", new_head=True)
    assert torch.equal(tuned.blocks[2].attn.qkv.weight, model.blocks[2].attn.qkv.weight)
    assert report.reinitialised == ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    with pytest.raises(UserError, match="mae_visualize_vit_base"):
        load_weights(autoencoder(), tmp_path / "theirs")


def test_classifiers_of_class_tokens_go_both_ways(tmp_path):
    model = randomised(classifier(global_pool=False))
    names = ["ant", "bee", "cat", "dog", "élan"]
    save_weights(model, tmp_path / "ours", "huggingface", class_names=names, preparation=Preparation(16, "direct"))
    theirs = read_back(tmp_path / "ours", transformers.ViTForImageClassification)
    same(theirs(images()).logits, model(images()))
    assert theirs.config.id2label[4] == "élan"
    theirs = hugging_face(transformers.ViTForImageClassification, transformers.ViTConfig, num_labels=5)
    theirs.save_pretrained(tmp_path / "theirs")
    model = create_model(**read_config(tmp_path / "theirs")).eval()
    load_weights(model, tmp_path / "theirs")
    same(model(images()), theirs(images()).logits)


@pytest.mark.parametrize("changes", [{}, {"linear_probe": True}, {"linear_probe": True, "global_pool": False}])
def test_transformers_has_no_pooling_classifier(tmp_path, changes):
    with pytest.raises(UserError, match="transformers' ViT classifies its class token"):
        save_weights(classifier(**changes), tmp_path / "no", "huggingface")
    assert not (tmp_path / "no").exists()


def test_rectangular_images_of_transformers(tmp_path):
    model = randomised(autoencoder(image_size=(8, 24)))
    save_weights(model, tmp_path, "huggingface")
    assert read_config(tmp_path)["image_size"] == (8, 24)
    again = create_model(**read_config(tmp_path))
    assert not load_weights(again, tmp_path).resized


def test_other_sizes_and_kinds_are_refused(tmp_path):
    hugging_face().save_pretrained(tmp_path)
    for changes, message in (
        ({"heads": 2}, "has heads 3, the model 2: build the model with the checkpoint's"),
        ({"decoder_heads": 4}, "has decoder_heads 2, the model 4"),
        ({"depth": 2}, "has depth 3, the model 2"),
    ):
        with pytest.raises(UserError, match=message):
            load_weights(autoencoder(**changes), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "swin"}, "of type swin, not a ViT or MAE"),
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"qkv_bias": False}, "no qkv_bias"),
        ({"hidden_size": "wide"}, "hidden_size wide, which should be one number"),
        ({"patch_size": [4, 8]}, r"patch_size \[4, 8\]"),
        ({"image_size": [4, 8, 8]}, "no number or pair of numbers"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=message):
            load_weights(autoencoder(), tmp_path)


def test_what_differs_a_little_is_told(tmp_path):
    hugging_face(layer_norm_eps=1e-12, hidden_act="gelu_pytorch_tanh", norm_pix_loss=True).save_pretrained(tmp_path)
    assert load_weights(autoencoder(), tmp_path).notes == (
        "it was trained with gelu tanh, erf is used here",
        "it was trained with layer_norm_eps 1e-12, 1e-06 is used here",
        "it was trained with norm_pix_loss True, False is used here",
    )


def test_the_processor_of_transformers_prepares_images_as_we_do(tmp_path):
    from PIL import Image

    pixels = torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for mode in ("crop", "direct"):
        preparation = Preparation(56, mode, (0.1, 0.2, 0.3), (0.5, 0.4, 0.25))
        save_weights(autoencoder(image_size=56), tmp_path, "huggingface", preparation=preparation)
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
        ours = preparation.normalise(preparation.cut(pixels)[None])
        assert theirs.shape == ours.shape
        difference = (ours - theirs) * torch.tensor(preparation.std).reshape(3, 1, 1) * 255
        assert float(difference.abs().max()) < 2.5  # of 255 levels: each rounds in its own way
