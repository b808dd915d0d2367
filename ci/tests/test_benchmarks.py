import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import interleaved, report, side_by_side
from benchmarks.contenders import common
from benchmarks.interleaved import WORKS, Built, ContenderFailedError, Facts, Measured, Settings, Turn
from benchmarks.machine import machine, versions

ROOT = Path(__file__).resolve().parent.parent.parent
FORK = multiprocessing.get_context("fork")
RESULTS = ROOT / "benchmarks" / "results"


def turns(*seconds):
    return [Turn(each, 2 * each) for each in seconds]


@pytest.fixture
def measured():
    facts = Facts(parameters=7, images=8, gflop=10.0, first_step_seconds=1.5)
    taken = {"ours": turns(1.0, 2.0, 4.0), "timm_shipped": turns(3.0, 4.0, 4.0), "matmul": turns(0.5, 0.5, 0.5)}
    return Measured({name: facts._replace(gflop=20.0 if name == "matmul" else 10.0) for name in taken}, taken)


@pytest.fixture
def content(measured):
    return {
        "kind": "step",
        "settings": {"work": "vit_b", "clock": "cpu"},
        "machine": {"processor": "P", "cores": 2, "extensions": ["avx512_bf16"], "gpus": []},
        "versions": {"torch": "2"},
        "results": side_by_side.summarise(measured, "cpu"),
    }


def test_ratios_are_taken_turn_by_turn_and_speeds_from_medians(measured):
    rows = side_by_side.summarise(measured, "cpu")
    peer = rows["timm_shipped"]  # 3, 2 and 1 times ours
    assert peer["ratio"] == 2.0
    assert peer["ratio_quartiles"] == [1.0, 3.0]
    assert (peer["cpu_ms"], peer["wall_ms"]) == (4000.0, 8000.0)
    assert peer["images_per_second"] == 2.0
    assert rows["ours"]["ratio_quartiles"] == [1.0, 1.0]


def test_share_of_peak_is_that_of_the_matrix_product_in_the_same_run(measured):
    rows = side_by_side.summarise(measured, "cpu")
    assert rows["matmul"]["gflop_per_second"] == 40.0
    assert rows["ours"]["gflop_per_second"] == 5.0  # 10 GFLOP in 2 s
    assert rows["ours"]["share_of_peak"] == 0.125
    assert "ratio" not in rows["matmul"]
    assert side_by_side.summarise(measured, "wall")["ours"]["gflop_per_second"] == 2.5
    without = Measured(measured.facts, {name: measured.turns[name] for name in ("ours", "timm_shipped")})
    assert "share_of_peak" not in side_by_side.summarise(without, "cpu")["ours"]


def test_one_turn_has_a_ratio_without_spread(measured):
    single = Measured(measured.facts, {name: taken[:1] for name, taken in measured.turns.items()})
    assert side_by_side.summarise(single, "cpu")["timm_shipped"]["ratio_quartiles"] == [3.0, 3.0]


def test_a_cores_own_time_counts_only_where_one_thread_does_all():
    assert side_by_side.clock_of(Settings("vit_b")) == "cpu"
    assert side_by_side.clock_of(Settings("vit_b", threads=2)) == "wall"
    assert side_by_side.clock_of(Settings("vit_b", device="cuda")) == "wall"
    assert side_by_side.clock_of(Settings("vit_b_end_to_end")) == "wall"


def test_tables_say_what_was_measured(content):
    lines = report.step_table(content).splitlines()
    assert lines[2] == "| ours | 4.00 | 2000.0 | 1.00 (1.00–1.00) | 10 | 5 | 12% | 1.5 |"
    assert lines[3] == "| timm_shipped | 2.00 | 4000.0 | 2.00 (1.00–3.00) | 10 | 2 | 6% | 1.5 |"
    assert lines[4] == "| matmul | – | 500.0 | – | 20 | 40 | 100% | 1.5 |"
    assert report.overview({"vit_b": content}).splitlines()[2:] == [
        "| vit_b | 4.00 (12%) | timm_shipped | 2.00 (1.00–3.00) |"
    ]
    whole = report.report({"vit_b": content})
    assert "P, 2 cores, avx512_bf16. work vit_b, clock cpu, torch 2" in whole


def test_other_programs_results_are_tables_too():
    clocks = {"cpu": {"executor_ms": 10.0, "loop_ms": 9.0, "ratio": 1.11, "ratio_quartiles": [1.0, 1.2]}}
    overhead = {"kind": "overhead", "settings": {}, "results": {"bf16": clocks}}
    assert "| bf16 | cpu | 10.0 | 9.0 | 1.110 (1.000–1.200) |" in report.report({"overhead": overhead})
    pipeline = {"settings": {}, "results": {"crop": {"ratio": 1.5, "quartiles": [1.25, 2.0]}, "PPM": {"ratio": 3.0}}}
    lines = report.plain_table(pipeline).splitlines()
    assert lines == ["| | ratio | quartiles |", "|---|---|---|", "| crop | 1.5 | 1.25–2 |", "| PPM | 3 | – |"]


def test_a_pages_table_is_replaced_and_nothing_else(content):
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.renewed(page, {"vit_b": content})
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "old" not in new
    assert "timm_shipped" in new
    assert report.renewed(new, {"vit_b": content}) == new
    with pytest.raises(ValueError, match="no <!-- results"):
        report.renewed("nothing", {})


def test_the_readmes_table_is_made_from_the_results_beside_it():
    page = (ROOT / "benchmarks" / "README.md").read_text()
    assert report.renewed(page, report.read(RESULTS / "cpu")) == page
    for folder in filter(Path.is_dir, RESULTS.iterdir()):
        assert (folder / "report.md").read_text() == report.report(report.read(folder))


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Contenders that note their steps in a file, in forked processes."""
    notes = tmp_path / "steps"

    def build(name, settings):
        if name == "broken":
            raise RuntimeError("broken on purpose")

        def step():
            with notes.open("a") as file:
                file.write(f"{name} ")

        def close():
            with notes.open("a") as file:
                file.write(f"end-{name} ")

        return Built(step, lambda: 4_000_000_000, parameters=3, close=close)

    monkeypatch.setattr(interleaved, "build", build)
    monkeypatch.setattr(interleaved.multiprocessing, "get_context", lambda method: FORK)
    return notes


def test_turns_alternate_and_the_warm_up_is_left_out(fakes):
    found = interleaved.measure(["ours", "peer"], Settings("vit_b"), warm_up=1, repeats=2, steps=2)
    steps = fakes.read_text().split()
    assert steps[:2] == ["ours", "peer"]  # built one after the other
    assert steps[2:14] == ["ours"] * 2 + ["peer"] * 4 + ["ours"] * 4 + ["peer"] * 2
    assert sorted(steps[14:]) == ["end-ours", "end-peer"]
    assert {name: len(taken) for name, taken in found.turns.items()} == {"ours": 2, "peer": 2}
    assert found.facts["peer"][:3] == (3, 8, 4.0)


def test_a_contender_that_fails_ends_the_run_and_the_other_processes(fakes, capfd):
    with pytest.raises(ContenderFailedError, match="broken ended before its time"):
        interleaved.measure(["ours", "broken"], Settings("vit_b"), warm_up=0, repeats=1, steps=1)
    assert fakes.read_text().split() == ["ours", "end-ours"]
    assert "broken on purpose" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # inductor's own
def test_flops_are_two_per_multiplication_forward_and_backward_also_of_what_is_compiled():
    layer, data = torch.nn.Linear(4, 5), torch.ones(3, 4)
    forward = 2 * 3 * 4 * 5
    assert common.flops_of(lambda: layer(data)) == forward
    assert common.flops_of(lambda: layer(data).sum().backward()) == 2 * forward  # nothing asks for the data's gradient
    compiled = torch.compile(layer)
    assert common.flops_of(lambda: compiled(data)) == forward
    queries = torch.ones(1, 1, 6, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert common.flops_of(lambda: attention(queries, queries, queries)) == 2 * (2 * 6 * 6 * 4)


def test_peers_differ_in_optimizer_and_attention_as_their_names_say(monkeypatch):
    made = []
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **words: made.append(words) or adamw(*args, **words))
    monkeypatch.setattr(torch, "compile", lambda model: made.append("compiled") or model)
    for variant in common.VARIANTS:
        common.classifier(torch.nn.Linear(4, 5), Settings("vit_b", 1, 4), variant)
    assert [words if words == "compiled" else words["fused"] for words in made] == [None, True, "compiled", True]
    bf16, fp32 = Settings("vit_b"), Settings("vit_b", dtype="fp32")
    assert common.fuses_attention(bf16, "shipped")
    assert not common.fuses_attention(bf16, "tuned")
    assert common.fuses_attention(fp32, "tuned")
    assert common.fuses_attention(bf16._replace(device="cuda"), "tuned")
    assert common.fuses_attention(bf16._replace(mode="inference"), "compiled")


def test_gradients_of_peers_are_clipped_where_ours_are():
    model = torch.nn.Linear(2, 2)
    peer = common.peer(
        model, lambda m: m(torch.ones(1, 2)), lambda y: 1e4 * y.sum(), Settings("vit_b"), "tuned", clip=1.0
    )
    norms = []
    model.weight.register_post_accumulate_grad_hook(lambda p: norms.append(p))
    seen = []
    original = torch.optim.AdamW.step
    torch.optim.AdamW.step = lambda self, *a: seen.append(float(norms[-1].grad.norm())) or original(self, *a)
    try:
        peer.step()
    finally:
        torch.optim.AdamW.step = original
    assert seen[0] <= 1.0


# In a process of its own, which enters an app: for each settings and names what the contenders say and give.
CONTEND = """
import json, sys
import torch
from benchmarks.interleaved import Settings, build

found = []
for settings, names in json.loads(sys.argv[1]):
    found.append({})
    for name in names:
        built = build(name, Settings(*settings))
        losses = [float(step.flatten()[0]) for step in (built.step(), built.step())]
        found[-1][name] = losses, built.flops(), built.parameters
print(json.dumps(found))
"""


def run_contenders(*rounds):
    variables = dict(os.environ, POPTORCH_HOST="1", POPTORCH_HOST_DEVICE="cpu")
    command = [sys.executable, "-W", "ignore", "-c", CONTEND, json.dumps(rounds)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_work(found):
    _, flops, parameters = found["ours"]
    for name, (losses, own_flops, own_parameters) in found.items():
        assert own_parameters == parameters, name
        assert 0.85 * own_flops < flops <= own_flops, name  # what a peer computes for nothing, ours may leave out
        assert all(map(math.isfinite, losses)), name


VITS = ["ours", "ours_mixed", "timm_shipped", "timm_tuned", "transformers_shipped", "transformers_tuned"]


def test_vits_do_the_same_work_in_every_dtype_and_mode():
    bf16, fp32 = Settings("vit_ti", 2, 32), Settings("vit_ti", 2, 32, dtype="fp32")
    plain = [name for name in VITS if name != "ours_mixed"]
    inference = [(settings._replace(mode="inference"), plain) for settings in (bf16, fp32)]
    trained, single, *inferred = run_contenders((bf16, VITS), (fp32, plain), *inference)
    for found in (trained, single, *inferred):
        assert_same_work(found)
    for found in (trained, single):
        for name, (losses, flops, _) in found.items():
            assert losses[0] == pytest.approx(math.log(common.CLASSES), abs=0.5), name  # of fresh weights
            assert flops == pytest.approx(trained["timm_tuned"][1], rel=0.15), name
    for found in inferred:
        for name, (_, flops, _) in found.items():
            assert 0.3 < flops / trained[name][1] < 0.4, name


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Settings("vit_gaudi", 1, 32), ["ours", "timm_tuned"]),
        (Settings("mae", 1, 64), ["ours", "transformers_tuned"]),
        (Settings("swin", 1, 224), ["ours", "timm_shipped", "torchvision_tuned"]),
    ],
    ids=["vit_gaudi", "mae", "swin"],
)
def test_contenders_do_the_same_work(settings, names):
    (found,) = run_contenders((settings, names))
    assert_same_work(found)


def test_a_run_writes_settings_machine_versions_and_results(fakes, monkeypatch, tmp_path, capsys):
    path = tmp_path / "vit_ti.json"
    words = ["vit_ti", "--image-size", "32", "--repeats", "2", "--contenders", "ours", "peer", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["side_by_side", *words])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    side_by_side.main()
    content = json.loads(path.read_text())
    assert content["settings"]["image_size"] == 32
    assert content["machine"] == machine()
    assert content["versions"] == versions()
    assert list(content["results"]) == ["ours", "peer"]
    assert content["results"]["ours"]["gflop"] == 4.0
    assert report.step_table(content) in capsys.readouterr().out


def test_ours_must_be_among_the_contenders(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["side_by_side", "vit_b", "--contenders", "timm_tuned"])
    with pytest.raises(SystemExit, match="ours must be among"):
        side_by_side.main()


def test_a_set_runs_on_after_a_failure_and_reports(tmp_path, content, capfd):
    source = tmp_path / "source.json"
    source.write_text(json.dumps(content))
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[3])"
    entries = [
        command.Entry("fails", [sys.executable, "-c", "raise SystemExit(3)"]),
        command.Entry("works", [sys.executable, "-c", copy, str(source)]),
    ]
    assert command.run(entries, tmp_path / "out") == ["fails"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## works" in text
    assert "timm_shipped" in text


def test_turns_can_be_told_for_a_whole_set(monkeypatch, tmp_path):
    told = tmp_path / "told.txt"
    write = "import sys; open(sys.argv[1], 'w').write(str(sys.argv[2:4]))"
    entry = command.Entry("tells", [sys.executable, "-c", write, str(told)])
    monkeypatch.setattr(command, "full_set", lambda: [entry])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--set", "full", "--repeats", "3", "--output", str(tmp_path)])
    command.main()
    assert told.read_text() == "['--repeats', '3']"


def test_the_full_set_has_every_work_and_the_small_one_every_goal(monkeypatch, capsys):
    full = [entry.name for entry in command.full_set()]
    assert len(set(full)) == len(full)
    for work in WORKS:
        assert any(name.startswith(work) for name in full)
    for work in ("vit_b", "vit_ti", "mae", "swin", "keras_vit", "executor_overhead"):
        assert any(entry.name.startswith(work) for entry in command.small_set())
    assert not any("keras" in entry.name or entry.name.startswith("processes") for entry in command.cuda_set())
    monkeypatch.setattr(sys, "argv", ["benchmarks", "swin_bf16", "--set", "full", "--list"])
    command.main()
    assert capsys.readouterr().out.split() == ["swin_bf16_train", "swin_bf16_inference"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "resnet"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no work of this set begins with resnet" in capsys.readouterr().err


def test_every_entry_is_a_command_that_can_be_read(monkeypatch):
    for entry in [*command.small_set(), *command.full_set(), *command.cuda_set()]:
        if "benchmarks.side_by_side" in entry.command:
            monkeypatch.setattr(sys, "argv", entry.command[2:])
            side_by_side.parse_arguments()
