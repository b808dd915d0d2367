import pytest

import train
from options import parse_options
from run.errors import UsageError

# Upstream's flags and defaults, but for those that became a choice of our own: see README.md.
UPSTREAM = {
    "dataset": "cifar10",
    "model_type": "ViT-B_16",
    "pretrained_dir": "checkpoint/ViT-B_16.npz",
    "output_dir": "output",
    "img_size": 384,
    "train_batch_size": 512,
    "eval_batch_size": 64,
    "eval_every": 100,
    "learning_rate": 0.06,
    "weight_decay": 0,
    "num_steps": 10000,
    "decay_type": "cosine",
    "warmup_steps": 500,
    "max_grad_norm": 1.0,
    "local_rank": -1,
    "seed": 42,
    "gradient_accumulation_steps": 1,
    "loss_scale": 0,
    "data_path": "dataset_path",
    "use_hpu": 1,
}


@pytest.mark.parametrize(("flag", "default"), UPSTREAM.items())
def test_upstreams_flags_and_defaults(flag, default):
    field = {"output_dir": "output"}.get(flag, flag)
    assert getattr(parse_options(["--name", "x"]), field) == default
    for spelling in (f"--{flag}", f"--{flag.replace('_', '-')}"):
        given = parse_options(["--name", "x", "--dataset", "imagenet1K", spelling, str(default)])
        assert getattr(given, field) == default


def test_the_documents_command():
    words = """--name imagenet1k_TF --dataset imagenet1K --data_path /dataset --model_type ViT-B_16
        --pretrained_dir /pretrained/ViT-B_16.npz --output_dir /output --num_steps 20000 --eval_every 1000
        --train_batch_size 64 --gradient_accumulation_steps 2 --img_size 384 --learning_rate 0.06 --autocast"""
    given = parse_options(words.split())
    assert str(given.run_folder) == "/output/imagenet1k_TF"
    assert given.autocast
    assert (given.num_steps, given.warmup_steps, given.gradient_accumulation_steps) == (20000, 500, 2)
    assert given.warnings() == []


@pytest.mark.parametrize(
    ("words", "resume", "resume_from"),
    [
        (["--resume"], True, None),
        (["--resume", "--autocast"], True, None),
        (["--resume", "false"], False, None),
        (["--resume", "out/run"], False, "out/run"),
        (["--resume=out/run"], False, "out/run"),
        (["--resume-from", "out/run"], False, "out/run"),
    ],
)
def test_resume_with_and_without_a_path(words, resume, resume_from):
    given = parse_options(["--name", "x", *words])
    assert (given.resume, given.resume_from) == (resume, resume_from)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--local_rank", "3"], "--local_rank has no effect"),
        (["--loss_scale", "128"], "--loss_scale has no effect: a leftover of float16"),
        (["--num_steps", "500"], "--warmup-steps 500 is not below --num-steps 500: the learning rate rises to the end"),
        (["--hmp"], "--hmp has no effect: the mixed precision before SynapseAI 1.12: give --autocast"),
        (["--hmp-bf16", "ops_bf16.txt"], "--hmp_bf16 has no effect"),
        (["--hmp-opt-level", "O1"], "--hmp_opt_level has no effect"),
    ],
)
def test_what_has_no_effect_is_accepted_with_a_warning(words, said):
    (warning,) = parse_options(["--name", "x", *words]).warnings()
    assert warning.startswith("warning: ")
    assert said in warning


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--name is required"),
        (["--name", "a/b"], "is no name of a folder"),
        (["--name", "x", "--cache-dataset"], "--cache-dataset has no effect"),
        (["--name", ""], "is no name of a folder"),
        (["--name", ".."], "is no name of a folder"),
        (["--name", "x", "--pretrained_dir", "none", "--internal-perf-measure"], "perf-measure has no effect here"),
        (["--name", "x", "--seed", str(2**63)], "--seed: 9223372036854775808 is above"),
        (["--name", "x", "--learning_rat", "1"], "did you mean --learning-rate?"),
        (["--name", "x", "--model_type", "ViT-B-16"], "did you mean ViT-B_16?"),
        (["--name", "x", "--train_batch_size", "10", "--gradient_accumulation_steps", "4"], "4 equal micro-batches"),
        (["--name", "x", "--use_hpu", "0", "--device", "hpu"], "--use-hpu 0 means the CPU"),
        (["--name", "x", "--mode", "compile", "--run_lazy_mode", "true"], "contradict"),
        (["--name", "x", "--dataset", "generated"], "give --num-classes"),
        (["--name", "x", "--dataset", "imagenet1K", "--download"], "--download has no effect here"),
        (["--name", "x", "--device", "cpu", "--mode", "lazy"], "lazy mode is an HPU's"),
        (["--name", "x", "--use_hpu", "0", "--run_lazy_mode", "true"], "lazy mode is an HPU's"),
    ],
)
def test_wrong_usage(words, said):
    with pytest.raises(UsageError) as caught:
        train.main(words)
    assert said in str(caught.value)


@pytest.mark.parametrize("which", ["", "latest", "checkpoints/step-1/weights"])
def test_overwriting_the_weights_to_start_from(tmp_path, which):
    inside = tmp_path / "run" / "checkpoints" / "step-1" / "weights"
    inside.mkdir(parents=True)
    words = ["--name", "run", "--output_dir", str(tmp_path), "--dataset", "cifar100", "--device", "cpu", "--overwrite"]
    with pytest.raises(UsageError, match=r"--overwrite would remove .*: give another --name or --output-dir$"):
        train.main([*words, "--pretrained_dir", str(tmp_path / "run" / which)])
    assert inside.is_dir()


def test_run_lazy_mode_false_is_harmless_without_an_hpu(tmp_path):
    assert parse_options(["--name", "x", "--run_lazy_mode", "false"]).run_lazy_mode is False


def test_cifar_without_a_path_lies_where_upstream_put_it():
    assert parse_options(["--name", "x"]).data_folder == "./data"
    assert parse_options(["--name", "x", "--data_path", "there"]).data_folder == "there"
    assert parse_options(["--name", "x", "--dataset", "imagenet1K"]).data_folder == "dataset_path"
