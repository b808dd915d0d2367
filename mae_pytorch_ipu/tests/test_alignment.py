"""alignment.py: gradients of two implementations, found, compared and refused; alignment.sh's commands."""

import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import MAEConfig, MaskedAutoencoder
from models.names import SIZES
from preparation import IMAGENET_MEAN, IMAGENET_STD
from run.errors import UserError
from scripts import alignment
from tests.scripts import APP, environment

TINY: dict = {"patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 48}
TINY.update(decoder_width=16, decoder_depth=2, decoder_heads=2, decoder_mlp_width=24)
CONFIG = MAEConfig(image_size=(16, 16), norm_pix_loss=True, **TINY)
SMALL = ["--input_size", "16", "--batch_size", "4"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The alignment model with thousands of parameters; numerics are left as they were."""
    monkeypatch.setitem(SIZES, "mae_vit_align_patch16", TINY)
    monkeypatch.setenv("POPTORCH_HOST_NUMERICS", "")


@pytest.fixture
def align(attempt, tmp_path):
    """Run alignment.py as its command line does."""

    def align(*arguments):
        return attempt("scripts.alignment.py", *arguments, "--output", tmp_path)

    return align


def written(folder, name):
    return load_file(folder / f"{name}.safetensors")


def test_exact_and_fast_find_plain_torchs_gradients(align, tmp_path):
    for name in ("plain", "exact", "fast"):
        assert align("--gradients", name, *SMALL).status == 0
    gradients = written(tmp_path, "plain")
    weights = {name for name, _ in MaskedAutoencoder(CONFIG).named_parameters()}
    assert set(gradients) == set(written(tmp_path, "exact")) == set(written(tmp_path, "fast")) == weights
    assert all(tensor.abs().max() > 0 for tensor in gradients.values())
    done = align("--compare", "plain", "exact", "fast")
    assert done.status == 0, done.error
    assert done.output.count(f"{len(weights)} gradients compared, 0 differ") == 2
    assert all(done.output.count(f"{name} ") >= 2 for name in weights)


def test_plain_gradients_are_those_of_the_models_own_loss(align, tmp_path):
    """Central differences in float64 of the loss, along the gradient of some weights."""
    align("--gradients", "plain", *SMALL, "--gelu_type", "tanh")
    found, given = written(tmp_path, "plain"), written(tmp_path, "inputs")
    images, keys = given.pop("images"), given.pop("keys")
    model = MaskedAutoencoder(replace(CONFIG, gelu="tanh")).double()
    model.load_state_dict(given)
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    pixels, noise = (images / 255.0 - mean) / std, alignment.mask_noise(keys, 16)
    for name in ("cls_token", "blocks.1.attn.qkv.weight", "decoder_pred.bias", "mask_token"):
        weight, direction = model.get_parameter(name), found[name].double()
        direction = direction / direction.norm()
        slopes = []
        with torch.no_grad():
            for step in (1e-3, -2e-3):
                weight += step * direction
                slopes.append(model(pixels, noise)[0].double())
            weight += 1e-3 * direction
        slope = (slopes[0] - slopes[1]) / 2e-3
        assert slope == pytest.approx((found[name].double() * direction).sum().item(), rel=2e-3), name


def test_masks_as_matrices_and_as_keys_give_the_same_gradients(align, monkeypatch, tmp_path):
    """What an IPU is sent, run by the host."""
    align("--gradients", "plain", *SMALL)
    monkeypatch.setattr(alignment, "is_host", False)
    shapes, run = [], alignment.executor_gradients
    monkeypatch.setattr(alignment, "executor_gradients", lambda *given: shapes.append(given[3].shape) or run(*given))
    assert align("--gradients", "ipu", *SMALL).status == 0
    assert shapes == [(4, 16, 4)]
    assert align("--compare", "plain", "ipu", "--tolerance", "1e-5").status == 0


def test_half_precision_differs_by_its_rounding(align, tmp_path):
    """float16 by parts in a thousand, bfloat16 by parts in a hundred; the loss scale is undone."""
    for name in ("plain", "exact", "fast"):
        done = align("--gradients", name, *SMALL, "--half", "--loss_scale", "512")
        assert done.status == 0, done.error
    plain = written(tmp_path, "plain")
    shares = {
        name: max(row.share for row in alignment.differences(plain, written(tmp_path, name)))
        for name in ("exact", "fast")
    }
    assert 1e-5 < shares["exact"] < 0.01 < shares["fast"] < 0.2
    done = align("--compare", "plain", "fast")
    assert done.status == 1
    assert "fast differs from plain in" in done.error
    assert "   *" in done.output
    assert align("--compare", "plain", "fast", "--tolerance", "0.2").status == 0


def test_one_wrong_gradient_is_found(align, tmp_path):
    for name in ("plain", "exact"):
        align("--gradients", name, *SMALL)
    gradients = written(tmp_path, "exact")
    gradients["blocks.2.mlp.fc1.bias"][3] += 0.01 * gradients["blocks.2.mlp.fc1.bias"].abs().max()
    settings = alignment.read(tmp_path / "exact.safetensors")[1]
    save_file(gradients, tmp_path / "exact.safetensors", metadata={"settings": settings})
    done = align("--compare", "plain", "exact")
    assert done.status == 1
    assert "exact differs from plain in 1 gradients (marked *), most in blocks.2.mlp.fc1.bias" in done.error
    gradients["norm.bias"][0] = torch.nan
    save_file(gradients, tmp_path / "exact.safetensors", metadata={"settings": settings})
    assert "in 2 gradients (marked *), most in norm.bias" in align("--compare", "plain", "exact").error


def test_an_implementation_that_computes_otherwise_is_found(align, monkeypatch):
    """Whatever is wrong in the program that the executor runs, here what a block returns, shows."""
    align("--gradients", "plain", *SMALL)
    build = alignment.build_autoencoder

    def broken(options):
        model = build(options)
        model.blocks[1].register_forward_hook(lambda module, inputs, output: output * 1.01)
        return model

    monkeypatch.setattr(alignment, "build_autoencoder", broken)
    align("--gradients", "fast", *SMALL)
    assert align("--compare", "plain", "fast").status == 1


def test_nothing_in_common_is_an_error():
    with pytest.raises(UserError, match="no gradient in common"):
        alignment.differences({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(UserError, match=r"a is of \(2,\) in the one and of \(3,\) in the other"):
        alignment.differences({"a": torch.ones(2)}, {"a": torch.ones(3)})


def test_shares():
    ours = {"a": torch.tensor([4.0, -8.0]), "b": torch.zeros(2), "c": torch.zeros(1)}
    theirs = {"c": torch.tensor([1e-9]), "a": torch.tensor([3.0, -8.0]), "b": torch.zeros(2)}
    found = {row.name: (row.largest, row.difference, row.share) for row in alignment.differences(ours, theirs)}
    assert found == {"a": (8, 1, 0.125), "b": (0, 0, 0), "c": (0, pytest.approx(1e-9), float("inf"))}


def test_what_only_one_has_is_named(align, tmp_path):
    align("--gradients", "plain", *SMALL)
    gradients, settings = alignment.read(tmp_path / "plain.safetensors")
    del gradients["cls_token"]
    save_file(gradients, tmp_path / "exact.safetensors", metadata={"settings": settings})
    done = align("--compare", "plain", "exact")
    assert done.status == 0
    assert "only one of the two has cls_token" in done.output


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "give either --gradients NAME or --compare NAME NAME"),
        (["--compare", "plain"], 2, "--compare plain names one implementation: give at least two"),
        (["--gradients", "plain", "--tolerance", "1"], 2, "--tolerance has no effect here"),
        (["--compare", "plain", "exact", "--half"], 2, "--half has no effect here"),
        (["--compare", "plain", "exact"], 1, "plain.safetensors does not exist: write it first"),
        (["--gradients", "ipu"], 1, "ipu can't be had here"),
    ],
)
def test_refused(align, words, status, says):
    done = align(*words)
    assert (done.status, done.output) == (status, "")
    assert says in done.error
    assert done.error.count("\n") == 1


def test_inputs_of_other_settings(align, tmp_path):
    align("--gradients", "plain", *SMALL)
    done = align("--gradients", "exact", *SMALL, "--seed", "3")
    assert done.status == 1
    assert "give another --output, or remove it" in done.error
    (tmp_path / "inputs.safetensors").unlink()
    assert align("--gradients", "exact", *SMALL, "--seed", "3").status == 0
    assert "have other inputs" in align("--compare", "plain", "exact").error


def test_the_script_makes_the_three_steps(tmp_path):
    """Its commands, with a stand-in for python3 that notes them."""
    notes = tmp_path / "notes"
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit ${{NO_SDK:-1}}\necho "$POPTORCH_HOST $*" >> {notes}\n')
    python.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    command = ["bash", str(APP / "scripts" / "alignment.sh"), "--half", "--output", str(tmp_path / "out")]
    subprocess.run([*command, "--", "--seed", "5"], env=dict(environment(), PATH=path, NO_SDK="0"), check=True)
    base = f"-m scripts.alignment --output {tmp_path}/out"
    made = [
        f"{int(name != 'ipu')} {base} --gradients {name} --half --loss_scale 1024 --seed 5"
        for name in ("plain", "exact", "fast", "ipu")
    ]
    assert notes.read_text().splitlines() == [*made, f"1 {base} --compare plain exact fast ipu --tolerance 0.1"]
    shown = subprocess.run(
        [*command[:2], "--dry-run"], env=dict(environment(), PATH=path), capture_output=True, text=True, check=True
    )
    assert "ipu" not in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith("--compare plain exact fast --tolerance 0.001")
