import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import create_model
from pipeline import ipu_of_blocks, place
from poptorch_host.backend import poptorch
from run.errors import UsageError
from tests.models.tiny import images, tiny

LARGE = (3, 4, 4, 4, 4, 3, 2, 0)  # LAYERS_PER_IPU of SWIN_LARGE_224_22K_PRETRAIN


class WithLoss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, labels):
        logits = self.model(batch)
        return logits, poptorch.identity_loss(F.cross_entropy(logits.float(), labels), "mean")


def begun(monkeypatch, model, *arguments, **changes):
    """(block, IPU) by name, in the order in which a forward pass enters them."""
    entered = []

    def begin(module, name, ipu_id):
        module.register_forward_pre_hook(lambda *_: entered.append((name, ipu_id)))

    monkeypatch.setattr(poptorch, "BeginBlock", begin)
    place(model, *arguments, **changes)
    with torch.no_grad():
        model.eval()(images())
    return entered


def test_blocks_follow_the_list():
    assert ipu_of_blocks([2, 3, 5, 2]) == [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]


def test_merging_stays_with_the_block_before_it_and_the_head_with_the_last(monkeypatch):
    model = tiny(depths=(1, 2), num_heads=(2, 3))
    model.stages[0].downsample.register_forward_hook(lambda *_: seen.append(len(seen)))
    seen = []
    entered = begun(monkeypatch, model, [1, 2])
    assert entered == [("patch_embed", 0), ("block0", 0), ("block1", 1), ("block2", 1)]
    assert seen == [0]


def test_the_list_of_swin_tiny(monkeypatch):
    model = tiny(depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8))
    entered = begun(monkeypatch, model, [2, 3, 5, 2])
    assert [ipu for _, ipu in entered] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]


def test_for_21841_classes_a_stage_begins_before_an_mlp_and_the_head_has_the_last_ipu(monkeypatch):
    model = tiny("swin_large_patch4_window7_224", depths=(2, 2, 18, 2), num_heads=(1, 2, 4, 8))
    entered = begun(monkeypatch, model, LARGE, large_head=True)
    assert entered[-5:] == [("block21", 5), ("block22", 5), ("block22_mlp", 6), ("block23", 6), ("head", 7)]
    assert [ipu for name, ipu in entered if name.startswith("block")][:8] == [0, 0, 0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("layers", "large_head", "said"),
    [
        ([4], False, None),
        ([2, 1], False, "places 3 blocks and the model has 4: give at least 1 per IPU, 4 in all"),
        ([4, 0], False, "the model has 4"),
        ([0, 4], False, "the model has 4"),
        ([], False, "the model has 4"),
        ([4, 0], True, "takes 3 IPUs or more"),
        ([3, 1, 0], True, None),
        ([4, 0, 0], True, "the model has 4"),
    ],
)
def test_lists_that_do_not_fit_are_refused(layers, large_head, said):
    if said is None:
        place(tiny(), layers, large_head=large_head)
        return
    with pytest.raises(UsageError, match=said):
        place(tiny(), layers, large_head=large_head)


def test_placement_changes_no_result_and_no_name():
    model = tiny(num_classes=9).eval()
    before, names = model(images()), list(model.state_dict())
    place(model, [2, 2, 0], large_head=True)
    assert torch.equal(model(images()), before)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("precision", ["32.32", "16.16"])
def test_a_pipeline_trains_in_both_precisions(precision):
    model = create_model(
        "swin_tiny_patch4_window7_224", image_size=40, num_classes=6, embed_dim=12, depths=(2, 2), num_heads=(2, 3)
    )
    batch, labels = images(6, 40, 40), torch.arange(6)
    if precision == "16.16":
        model, batch = model.half(), batch.half()
    place(model, [2, 2])
    options = poptorch.Options()
    options.Training.gradientAccumulation(3)
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=1e-2)
    training = poptorch.trainingModel(WithLoss(model), options, optimizer)
    losses = [float(training(batch, labels)[1].mean()) for _ in range(15)]
    assert losses[0] == pytest.approx(torch.tensor(6.0).log().item(), abs=0.3)
    assert losses[-1] < 0.5 * losses[0]
