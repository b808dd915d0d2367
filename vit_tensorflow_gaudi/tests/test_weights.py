"""Weight files: Google's layout, HDF5, resizing of positions, checksums of what is fetched."""

import base64
import hashlib

import h5py
import numpy as np
import pytest
from scipy.ndimage import zoom

import download
import weights
from errors import UserError
from models import create_model, named_variables
from tests.reference_vit import forward, random_arrays

SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48}


def small(classes=10, size=32, **changes):
    return create_model("ViT-B_16", image_size=size, num_classes=classes, **{**SMALL, **changes})


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "vit.npz", **random_arrays(tokens=5))
    return tmp_path / "vit.npz"


def test_round_trip_keeps_every_array(npz, tmp_path):
    model = small()
    report = weights.load_npz(model, npz)
    assert (report.loaded, report.fresh, report.unused) == (40, [], [])
    weights.save_npz(model, tmp_path / "again.npz")
    before, after = weights.read_npz(npz), weights.read_npz(tmp_path / "again.npz")
    assert before.keys() == after.keys()
    assert all(after[name].shape == before[name].shape and (after[name] == before[name]).all() for name in before)


@pytest.mark.parametrize(("old", "new"), [(14, 24), (7, 12), (24, 14), (3, 3), (1, 4), (5, 1)])
def test_positions_are_resized_with_aligned_corners(old, new):
    positions = np.random.default_rng(0).standard_normal((1, 1 + old * old, 6))
    found = weights.resize_positions(positions, 1 + new * new)
    assert (found[:, 0] == positions[:, 0]).all()
    grid = positions[0, 1:].reshape(old, old, 6)
    if min(old, new) > 1:
        wanted = zoom(grid, (new / old, new / old, 1), order=1)
        np.testing.assert_allclose(found[0, 1:].reshape(new, new, 6), wanted, atol=1e-12)
        assert (found[0, [1, new, -new, -1]] == grid[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(4, 6)).all()
    else:
        np.testing.assert_array_equal(found[0, 1:], np.broadcast_to(grid[0, 0], (new * new, 6)))


def test_loading_into_a_larger_grid_is_the_reference_with_resized_positions(npz):
    model, arrays = small(size=64), weights.read_npz(npz)
    report = weights.load_npz(model, npz)
    assert "resized from 5 tokens to 17" in str(report)
    name = "Transformer/posembed_input/pos_embedding"
    grid = zoom(arrays[name][0, 1:].reshape(2, 2, 32).astype(float), (2, 2, 1), order=1)
    arrays[name] = np.concatenate([arrays[name][:, :1], grid.reshape(1, 16, 32)], axis=1)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(model(images).numpy(), forward(arrays, images), rtol=1e-4, atol=1e-5)


def test_a_new_head_stays_as_it_is(npz):
    model = small(classes=7)
    report = weights.load_npz(model, npz, new_head=True)
    assert report.fresh == report_head()
    assert report.unused == sorted(report_head())
    assert not np.any(model.get_layer("head").kernel.numpy())


def report_head():
    return ["head/kernel", "head/bias"]


def test_a_new_head_may_stand_on_a_representation_or_not_but_a_loaded_one_needs_its_own(npz, tmp_path):
    names = ["pre_logits/kernel", "pre_logits/bias"]
    assert weights.load_npz(small(representation=True), npz, new_head=True).fresh == [*names, *report_head()]
    np.savez(tmp_path / "more.npz", **random_arrays(tokens=5, representation=True))
    report = weights.load_npz(small(), tmp_path / "more.npz", new_head=True)
    assert report.unused == sorted([*names, *report_head()])
    with pytest.raises(UserError, match="lacks pre_logits, which the model has"):
        weights.load_npz(small(representation=True), npz)
    with pytest.raises(UserError, match="has pre_logits before its head"):
        weights.load_npz(small(), tmp_path / "more.npz")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"classes": 7}, "head/kernel of 32×10, the model of 32×7: ask for a new head"),
        ({"depth": 3}, "has 2 encoder blocks, the model 3"),
        ({"mlp_width": 64}, "of 32×48, the model of 32×64"),
        ({"width": 16}, "the model of"),
        ({"heads": 4}, "is of 2 heads, the model of 4"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(npz, model, said):
    model = small(**model)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(UserError, match=said):
        weights.load_npz(model, npz)
    assert all((old == new.numpy()).all() for old, new in zip(before, model.weights))


def test_damaged_missing_and_foreign_files(npz, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        weights.load_npz(small(), tmp_path / "none.npz")
    (tmp_path / "half.npz").write_bytes(npz.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"can't be read as \.npz"):
        weights.load_npz(small(), tmp_path / "half.npz")
    (tmp_path / "half.h5").write_bytes(b"no HDF5")
    with pytest.raises(UserError, match="can't be read as HDF5"):
        weights.load_h5(small(), tmp_path / "half.h5")
    with pytest.raises(UserError, match=r"neither \.npz nor \.h5"):
        weights.load_file(small(), tmp_path / "weights.bin")
    arrays = weights.read_npz(npz)
    del arrays["Transformer/encoderblock_1/LayerNorm_2/bias"]
    with pytest.raises(UserError, match="lacks Transformer/encoderblock_1/LayerNorm_2/bias"):
        weights.assign(small(), arrays, "file", new_head=False)
    np.savez(tmp_path / "pickle.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="can't be read"):
        weights.load_npz(small(), tmp_path / "pickle.npz")


def test_keras_own_hdf5_files_are_read(npz, tmp_path):
    model, other = small(), small()
    weights.load_npz(model, npz)
    model.save_weights(tmp_path / "model.h5")
    weights.load_h5(other, tmp_path / "model.h5")
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(model.weights, other.weights))


def test_hdf5_files_of_whole_earlier_models_are_read(npz, tmp_path):
    """Layers as groups below model_weights, arrays named after layer and sublayer, the optimizer's beside them."""
    renamed = {"scale": "gamma", "bias": "bias", "kernel": "kernel"}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["optimizer_weights/SGD/Transformer/encoderblock_0/LayerNorm_0/gamma/ga:0"] = np.zeros(32)
        for name, array in weights.read_npz(npz).items():
            parts = name.split("/")
            if name == "cls":
                path = "class_token/class_token/cls:0"
            elif parts[-1] == "pos_embedding":
                path = f"{'/'.join(parts[:-1])}/{name}:0"
            else:
                is_norm = "norm" in name.lower()
                leaf = "beta" if is_norm and parts[-1] == "bias" else renamed[parts[-1]]
                layer = "/".join(parts[:2]) if parts[0] == "Transformer" else parts[0]
                path = f"{layer}/{'/'.join(parts[:-1])}/{leaf}:0"
            width = 32
            flat = array.reshape(width, width) if array.ndim == 3 and "/query/" in name else array
            file[f"model_weights/{path}"] = flat
    model, other = small(), small()
    weights.load_npz(model, npz)
    weights.load_h5(other, tmp_path / "old.h5")
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(model.weights, other.weights))


@pytest.fixture
def mirror(tmp_path, npz, monkeypatch):
    """A mirror of file URLs, which state no checksum; `stated` adds one."""
    folder = tmp_path / "mirror" / "imagenet21k"
    folder.mkdir(parents=True)
    (folder / "ViT-B_16.npz").write_bytes(npz.read_bytes())
    monkeypatch.setattr(download, "MIRROR", (tmp_path / "mirror").as_uri())
    return folder / "ViT-B_16.npz"


def test_weights_are_fetched_once_and_then_local(mirror, tmp_path):
    path = download.locate("imagenet21k", "ViT-B_16", str(tmp_path / "cache"))
    assert path == tmp_path / "cache" / "weights" / "ViT-B_16_imagenet21k.npz"
    assert path.read_bytes() == mirror.read_bytes()
    mirror.unlink()
    assert download.locate("imagenet21k", "ViT-B_16", str(tmp_path / "cache")) == path
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="SHA-256 differs"):
        download.locate("imagenet21k", "ViT-B_16", str(tmp_path / "cache"))


def test_a_file_that_the_user_put_there_comes_first(tmp_path):
    own = tmp_path / "weights" / "ViT-L_32_imagenet21k+imagenet2012.npz"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    assert download.locate("imagenet21k+imagenet2012", "ViT-L_32", str(tmp_path)) == own


def test_what_can_not_be_fetched_says_what_to_do_and_leaves_nothing(tmp_path, mirror):
    with pytest.raises(UserError, match=r"put the file at .* or --weights none"):
        download.locate("imagenet21k", "ViT-L_16", str(tmp_path / "cache"))
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


@pytest.mark.parametrize("damage", ["length", "md5"])
def test_a_download_is_compared_with_what_the_server_states(npz, damage):
    content = npz.read_bytes()
    md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    download._verify(npz, str(len(content)), [f"crc32c=n03x6A==, md5={md5}"], "url")
    wrong = (str(len(content) + 1), md5) if damage == "length" else (str(len(content)), md5[::-1])
    with pytest.raises(UserError, match="arrived damaged"):
        download._verify(npz, wrong[0], [f"crc32c=n03x6A==, md5={wrong[1]}"], "url")


def test_every_variable_has_one_name():
    model = small(representation=True)
    named = named_variables(model)
    assert sorted(map(id, named.values())) == sorted(map(id, model.weights))
