"""visualize.py: what its pictures show, and that normalised predictions get their statistics from the original."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.masking import select
from models.patches import patchify
from preparation import Preparation
from run.checkpoints import Checkpoints
from tests.references import autoencoder, classifier, randomised
from visualize import NORMALISED, draw_panels, make_panels, reconstruct
from weights import save_weights

PREPARATION = Preparation(16, "direct")


def pixels(batch=2, seed=0):
    return torch.randint(0, 256, (batch, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def noise(batch=2):
    return torch.rand(batch, 16, generator=torch.Generator().manual_seed(2))


def constant(value, **changes):
    """A model that predicts the same number everywhere."""
    model = autoencoder(**changes)
    with torch.no_grad():
        model.decoder_pred.weight.zero_()
        model.decoder_pred.bias.fill_(value)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    model = randomised(autoencoder(image_size=32, patch_size=8, norm_pix_loss=True))
    save_weights(model, folder, preparation=Preparation(32, "direct"))
    return folder


def photo(path, size=(50, 40), seed=0, colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(random if colour is None else np.full((*size, 3), colour, dtype=np.uint8)).save(path)
    return path


def test_raw_predictions_are_pixels():
    images = PREPARATION.normalise(pixels())
    found = reconstruct(constant(0.5), images, noise())
    assert torch.equal(found.images, torch.full_like(images, 0.5))
    assert torch.equal(found.mask, select(noise(), 4).mask)
    patches = patchify(images, 4)
    for index in range(2):
        error = (patches[index][found.mask[index] == 1] - 0.5).square().mean()
        assert found.loss[index].item() == pytest.approx(error.item(), rel=1e-5)
        alone = constant(0.5)(images[index : index + 1], noise()[index : index + 1], loss_only=True)
        assert found.loss[index].item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_normalised_predictions_get_mean_and_deviation_of_the_original(value):
    images = PREPARATION.normalise(pixels())
    found = reconstruct(constant(value, norm_pix_loss=True), images, noise())
    for n, ty, tx in np.ndindex(2, 4, 4):
        box = (slice(None), slice(4 * ty, 4 * ty + 4), slice(4 * tx, 4 * tx + 4))
        patch = images[n][box].double()
        expected = patch.mean() + value * (patch.var() + 1e-6).sqrt()
        torch.testing.assert_close(found.images[n][box], expected.float().expand(3, 4, 4), rtol=1e-5, atol=1e-5)


def test_a_perfect_normalised_prediction_restores_the_original():
    images = PREPARATION.normalise(pixels())
    model = autoencoder(norm_pix_loss=True)
    model.forward = lambda pictures, u: (None, model.targets(patchify(pictures, 4)), select(u, 4).mask)
    found = reconstruct(model, images, noise())
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-5)
    assert torch.equal(PREPARATION.pixels(found.images), pixels())
    assert found.loss.max() < 1e-10


def test_panels_show_what_they_say():
    model, image = constant(0.0), pixels()
    found = reconstruct(model, PREPARATION.normalise(image), noise())
    original, masked, predicted, pasted = make_panels(image, found, model, PREPARATION).unbind(1)
    assert torch.equal(original, image)
    mean = torch.tensor(PREPARATION.mean).mul(255).round().to(torch.uint8).reshape(3, 1, 1)
    assert torch.equal(predicted, mean.expand_as(predicted))
    for n, ty, tx in np.ndindex(2, 4, 4):
        box = (n, slice(None), slice(4 * ty, 4 * ty + 4), slice(4 * tx, 4 * tx + 4))
        if found.mask[n, ty * 4 + tx]:
            assert (masked[box] == 128).all()
            assert torch.equal(pasted[box], predicted[box])
        else:
            assert torch.equal(masked[box], image[box])
            assert torch.equal(pasted[box], image[box])


def test_the_picture_has_the_panels_side_by_side(tmp_path):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    panels = colours[:, :, None, None].expand(4, 3, 8, 8)
    draw_panels(panels, "a $ b", True, tmp_path / "deep" / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "deep" / "a.png").convert("RGB")).astype(int)
    centres = []
    for colour in colours.tolist():
        rows, columns = np.nonzero((drawn == colour).all(-1))
        assert len(rows) > 10000
        centres.append(columns.mean())
    assert centres == sorted(centres)


def test_one_command_for_a_folder(attempt, checkpoint, tmp_path):
    paths = [photo(tmp_path / "in" / name, seed=i) for i, name in enumerate(("a.png", "deep/b.png", "c.png"))]
    (tmp_path / "in" / "bad.jpg").write_text("no image")
    done = attempt("visualize.py", "--checkpoint", checkpoint, tmp_path / "in", "--output", tmp_path / "out")
    assert done.status == 1
    assert "bad image" in done.error
    assert "error: 1 of 4 images can't be read" in done.error
    assert NORMALISED in done.error
    lines = dict(line.split("  loss ") for line in done.output.splitlines())
    assert list(lines) == [str(tmp_path / "out" / name) for name in ("a.mae.png", "c.mae.png", "deep/b.mae.png")]
    assert all(0 < float(loss) < 100 for loss in lines.values())
    with Image.open(tmp_path / "out" / "deep" / "b.mae.png") as picture:
        assert picture.width > 3 * picture.height
    one_by_one = attempt(
        "visualize.py",
        "--checkpoint",
        checkpoint,
        *sorted(paths),
        "--output",
        tmp_path / "out",
        "--micro-batch-size",
        1,
    )
    assert one_by_one.status == 0, one_by_one.error
    again = dict(line.split("  loss ") for line in one_by_one.output.splitlines())
    assert again[str(tmp_path / "out" / "a.mae.png")] == lines[str(tmp_path / "out" / "a.mae.png")]
    other = attempt("visualize.py", "--checkpoint", checkpoint, paths[0], "--seed", 1)
    assert other.output.split("loss ")[1].strip() != lines[str(tmp_path / "out" / "a.mae.png")]
    assert (tmp_path / "in" / "a.mae.png").is_file()
    again = attempt("visualize.py", "--checkpoint", checkpoint, tmp_path / "in" / "a*.png")
    assert len(again.output.splitlines()) == 1  # the picture is none of the images


def test_ratio_and_target_can_be_given(attempt, checkpoint, tmp_path):
    path = photo(tmp_path / "a.png", colour=(200, 0, 0))
    done = attempt("visualize.py", "--checkpoint", checkpoint, path, "--mask-ratio", 0.5, "--norm-pix-loss", "false")
    assert done.status == 0, done.error
    assert NORMALISED not in done.error
    assert "norm_pix_loss True, False is used here" in done.error
    drawn = np.asarray(Image.open(tmp_path / "a.mae.png").convert("RGB")).astype(int)
    quarter = drawn.shape[1] // 4
    for panel, share in ((0, 1.0), (1, 0.5)):
        part = drawn[:, panel * quarter : (panel + 1) * quarter]
        red, grey = ((part == colour).all(-1).sum() for colour in ((200, 0, 0), (128, 128, 128)))
        assert red / (red + grey) == pytest.approx(share, abs=0.03)


def test_a_pretraining_run_without_a_metric(attempt, tmp_path):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    model = autoencoder(image_size=32, patch_size=8)
    checkpoints.save(1, {}, writers={"weights": lambda folder: save_weights(model, folder)})
    path = photo(tmp_path / "a.png")
    done = attempt("visualize.py", "--checkpoint", tmp_path / "run", path)
    assert done.status == 0, done.error
    assert NORMALISED not in done.error


def test_what_can_not_reconstruct_is_told(attempt, tmp_path):
    path = photo(tmp_path / "a.png")
    save_weights(classifier(image_size=32, patch_size=8), tmp_path / "tuned")
    save_weights(autoencoder(image_size=32, patch_size=8), tmp_path / "encoder", encoder_only=True)
    save_weights(autoencoder(image_size=(32, 16), patch_size=8), tmp_path / "wide")
    save_weights(autoencoder(image_size=32, patch_size=8), tmp_path / "good")
    for words, said in (
        ([tmp_path / "tuned"], "holds an encoder without its decoder and can't reconstruct: take mae_visualize_vit_"),
        ([tmp_path / "encoder"], "holds an encoder without its decoder"),
        ([tmp_path / "wide"], "wants images of 32×16: give a square --image-size"),
        ([tmp_path / "good", "--image-size", 30], "30×30 is not a multiple of the patch size 8"),
        ([tmp_path / "good", "--mask-ratio", 1], "leaves none visible"),
    ):
        done = attempt("visualize.py", path, "--checkpoint", *words)
        assert done.status == 1
        assert said in done.error
    for words, said in (([path], "--checkpoint is required"), (["--checkpoint", "c"], "no image is given")):
        done = attempt("visualize.py", *words)
        assert done.status == 2
        assert said in done.error
