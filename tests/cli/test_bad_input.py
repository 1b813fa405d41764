"""Every mistake a user can make ends in one clear line, its own exit code, no traceback, and nothing lost."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evopress import __version__, errors
from evopress.testing import gguf_config, merging_tokenizer, pico_tokenizer, random_model, write_pico_checkpoint
from evopress.testing.tiny import tiny_config

Call = Callable[..., Any]


def check(result: Any, error: type[errors.EvopressError], *parts: str) -> None:
    """One line on standard error after the progress, the error's exit code, and no traceback."""
    last = result.err.strip().splitlines()[-1]
    assert last.startswith("evopress: "), result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in last
    assert result.code == error.exit_code, last


def content(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_exit_codes_are_distinct() -> None:
    codes = [kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(codes) == len(set(codes))
    assert not {0, 2, 130} & set(codes)


@pytest.mark.parametrize("model", ["/no/such/model", "missing.gguf"])
def test_unknown_model_path(quantize: Call, tmp_path: Path, model: str) -> None:
    check(quantize(tmp_path / "run", model=model), errors.ModelError, "model not found", model)


def test_not_a_causal_language_model(quantize: Call, tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=96
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    pico_tokenizer().save_pretrained(tmp_path / "bert")
    check(quantize(tmp_path / "run", model=tmp_path / "bert"), errors.ModelError, "not a causal language model")


def test_unsupported_architecture_says_what_was_not_found(quantize: Call, tmp_path: Path) -> None:
    import transformers

    transformers.AutoModelForCausalLM.from_config(tiny_config("jetmoe")).save_pretrained(tmp_path / "experts")
    pico_tokenizer().save_pretrained(tmp_path / "experts")
    check(
        quantize(tmp_path / "run", model=tmp_path / "experts"),
        errors.UnsupportedModel,
        "holds 4 experts",
        "not supported",
    )


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        (
            "quantize --bits 3 --calibration-tokens 0",
            errors.ConfigError,
            "no calibration text, by which these levels are",
        ),
        ("quantize --bits 4 --target vllm --experts each", errors.ConfigError, "use --experts layer"),
        (
            "drop --granularity expert --fraction 0.75",
            errors.BudgetError,
            "2 of its 4 experts can go, as a token needs 2",
        ),
    ],
)
def test_mixtures_that_cannot_be_compressed_so(
    call: Call, sizes: list[str], text: Path, mixture: Call, tmp_path: Path, words: str, error: Any, part: str
) -> None:
    command, *own = words.split()
    group = ["--group-size", "32"] if command == "quantize" else []
    result = call(command, mixture("mixtral"), "-o", tmp_path / "run", "--data", text, *group, *sizes, *own)
    check(result, error, part)
    assert not (tmp_path / "run" / "database" / "manifest.json").exists()


def test_experts_whose_widths_have_no_type_in_common(call: Call, sizes: list[str], text: Path, tmp_path: Path) -> None:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size": 64}
    random_model(gguf_config("mixtral", blocks=2, width=256, **experts)).save_pretrained(tmp_path / "mixture")
    merging_tokenizer().save_pretrained(tmp_path / "mixture")
    words = ["--target", "llamacpp", "--bpw", "5", "--levels", "Q4_K,Q6_K", "--experts", "layer"]
    result = call("quantize", tmp_path / "mixture", "-o", tmp_path / "run", "--data", text, *sizes, *words)
    check(result, errors.ConfigError, "mlp.experts have none of Q4_K, Q6_K in common", "use --experts matrix")
    assert not (tmp_path / "run" / "database" / "manifest.json").exists()


def test_profiles_of_experts_that_no_checkpoint_or_router_can_have(
    call: Call, sizes: list[str], text: Path, mixture: Call, tmp_path: Path
) -> None:
    words = ["--granularity", "expert", "--fraction", "0.25"]
    assert call("drop", mixture("mixtral"), "-o", tmp_path / "run", "--data", text, *sizes, *words).code == 0
    found = (tmp_path / "run" / "profile.txt").read_text()
    even = re.sub(r"(layers\.0\..*): drop", r"\1: keep", found)
    (tmp_path / "uneven.txt").write_text(even)
    result = call("export", tmp_path / "run", "--profile", tmp_path / "uneven.txt", "-o", tmp_path / "out")
    check(result, errors.ProfileError, "keeps 3 to 4 experts a layer", "one number for all")
    assert not (tmp_path / "out").exists()
    (tmp_path / "few.txt").write_text(re.sub(r"(layers\.0\.mlp\.experts\.[012]): \w+", r"\1: drop", even))
    result = call("evaluate", tmp_path / "run", "--profile", tmp_path / "few.txt")
    check(result, errors.ProfileError, "keeps 1 of the 4 experts of model.layers.0.mlp.experts; a token needs 2")


def test_a_tokenizer_without_bos(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--bos", "yes"), errors.ConfigError, "--bos is yes", "no BOS token", "auto or no")
    assert not (tmp_path / "run" / "database" / "manifest.json").exists()


def test_nan_weights(quantize: Call, checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path / "nan")
    tensors = load_file(tmp_path / "nan" / "model.safetensors")
    name = next(name for name in tensors if "up_proj" in name)
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    save_file(tensors, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    check(quantize(tmp_path / "run", model=tmp_path / "nan"), errors.BadWeights, name, "NaN")


def test_unknown_dataset_lists_the_known(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", data="wikitext3"), errors.DataError, "wikitext3", "wikitext2", "fineweb_edu")


def test_empty_file(quantize: Call, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    check(quantize(tmp_path / "run", data=tmp_path / "empty.txt"), errors.DataError, "empty.txt", "empty")


def test_too_few_tokens_says_how_many_there_are(quantize: Call, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the cat sat on a mat while it rained hard today. " * 20)
    result = quantize(tmp_path / "run", data=tmp_path / "short.txt")
    check(result, errors.NotEnoughTokens, "short.txt", "tokens", "asked for")


def test_scoring_a_text_shorter_than_one_window(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    (tmp_path / "short.txt").write_text("the cat")
    result = call("evaluate", tmp_path / "run", "--data", tmp_path / "short.txt")
    check(result, errors.NotEnoughTokens, "short.txt", "7 tokens", "one window of 16", "--sequence-length 7")
    assert call("evaluate", tmp_path / "run", "--data", tmp_path / "short.txt", "--sequence-length", "7").code == 0


@pytest.mark.parametrize("flag", ["--tokens", "--sequence-length"])
def test_scoring_a_part_of_no_named_text(quantize: Call, call: Call, tmp_path: Path, flag: str) -> None:
    quantize(tmp_path / "run")
    check(call("evaluate", tmp_path / "run", flag, "64"), errors.ConfigError, flag, "64", "--data")


@pytest.mark.parametrize("bits", ["1.5", "4.5", "99"])
def test_bits_outside_the_levels(quantize: Call, tmp_path: Path, bits: str) -> None:
    check(quantize(tmp_path / "run", "--bits", bits), errors.BudgetError, bits, "2", "4")
    assert not (tmp_path / "run" / "config.toml").exists()


@pytest.mark.parametrize(
    ("bits", "error"), [("three", errors.ConfigError), ("-1", errors.BudgetError), ("nan", errors.ConfigError)]
)
def test_bits_that_are_no_budget(quantize: Call, tmp_path: Path, bits: str, error: type[errors.EvopressError]) -> None:
    check(quantize(tmp_path / "run", f"--bits={bits}"), error, bits)


@pytest.mark.parametrize(
    ("survivors", "tokens", "part"),
    [
        ("2,3,1", "32,32,32", "3"),
        ("4,2", "32,64", "2"),
        ("2,1", "32,4096", "512"),
        ("2,1", "32", "1"),
        ("8,1", "32,64", "8"),
    ],
    ids=["growing", "last not 1", "beyond the data", "lengths", "more than offspring"],
)
def test_impossible_schedule(quantize: Call, tmp_path: Path, survivors: str, tokens: str, part: str) -> None:
    result = quantize(tmp_path / "run", "--survivors", survivors, "--tokens-per-stage", tokens)
    check(result, errors.ScheduleError, part)


def test_settings_that_are_wrong_are_named_as_flags_with_their_value(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--group-size", "-1"), errors.ConfigError, "--group-size is -1: ", "1")
    check(quantize(tmp_path / "run", "--mutation", "foo"), errors.ConfigError, "--mutation is 'foo': ", "'equal'")
    check(quantize(tmp_path / "run", "--method", "wanda"), errors.ConfigError, "--method is 'wanda'", "gptq, rtn, ggml")
    check(quantize(tmp_path / "run", "--seed", str(10**20)), errors.ConfigError, f"--seed is {10**20}")


def test_levels_by_text_without_text(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--calibration-tokens", "0"), errors.ConfigError, "no calibration text")
    assert quantize(tmp_path / "run", "--calibration-tokens", "0", "--method", "rtn").code == 0


def test_windows_longer_than_the_model_s_positions(quantize: Call, tmp_path: Path) -> None:
    result = quantize(tmp_path / "run", "--sequence-length", "100000")
    check(result, errors.ConfigError, "--sequence-length is 100000, but the model has ", "positions")


def test_a_database_goes_nowhere_but_into_a_directory_of_its_own(quantize: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    result = quantize(tmp_path / "run", "--database", str(tmp_path / "mine"))
    check(result, errors.DatabaseError, "not empty and holds no database")
    assert [file.name for file in (tmp_path / "mine").iterdir() if file.suffix != ".lock" and file.name != ".lock"] == [
        "thesis.tex"
    ]


def test_a_start_profile_that_does_not_fit_is_named(quantize: Call, tmp_path: Path) -> None:
    (tmp_path / "start.txt").write_text("model.layers.0.mlp.no_proj: 3\n")
    result = quantize(tmp_path / "run", "--start-profile", str(tmp_path / "start.txt"))
    check(result, errors.ProfileError, "start.txt: ", "model.layers.0.mlp.no_proj")
    assert quantize(tmp_path / "run").code == 0  # the run had a database, but nothing that another start would spoil
    (tmp_path / "start.txt").write_bytes(b"\xff\xfe")
    result = quantize(tmp_path / "other", "--start-profile", str(tmp_path / "start.txt"))
    check(result, errors.RunError, "no profile in ", "start.txt")


def test_bits_as_stored_that_no_levels_have_are_refused_before_the_build(
    call: Call, checkpoint: Path, text: Path, tmp_path: Path, sizes: list[str]
) -> None:
    given = ["quantize", str(checkpoint), "--data", str(text), "-o", str(tmp_path / "run"), *sizes]
    result = call(*given, "--levels", "2,3,4", "--group-size", "16", "--bpw", "3")
    check(
        result, errors.BudgetError, "--bpw 3, scales and zeros counted, cannot be met; the levels allow 3.125 to 5.25"
    )
    assert not (tmp_path / "run" / "database").exists()


def test_a_damaged_configuration_is_named(quantize: Call, call: Call, tmp_path: Path) -> None:
    assert quantize(tmp_path / "run").code == 0
    (tmp_path / "run" / "config.toml").write_text("")
    check(call("inspect", str(tmp_path / "run")), errors.RunError, "config.toml")


def test_no_arguments_print_the_help_and_version_the_version(call: Call) -> None:
    result = call()
    assert result.code == 2
    assert "quantize" in result.out
    assert result.err == ""
    assert call("--version").out == f"evopress {__version__}\n"


def test_a_race_over_too_few_tokens(quantize: Call, tmp_path: Path) -> None:
    result = quantize(tmp_path / "run", "--survivors", "1", "--tokens-per-stage", "8", "--race")
    check(result, errors.ConfigError, "16 tokens or more in the last stage, which has 8", "--no-race")


def test_a_list_that_is_no_list(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--survivors", "a,b"), errors.ConfigError, "--survivors", "8,2,1")
    check(quantize(tmp_path / "run", "--time", "soon"), errors.ConfigError, "soon", "30m")
    check(quantize(tmp_path / "run", "--sensitivity-tokens", "64,1"), errors.ConfigError, "are 1", "512,4096")


def test_group_size_larger_than_a_layer(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--group-size", "64"), errors.ConfigError, "64", "q_proj", "48")


def test_unknown_preset_lists_the_known(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--preset", "fast"), errors.ConfigError, "fast", "paper", "quick", "super-fast")


def test_unknown_fitness_lists_the_known_before_any_work(quantize: Call, tmp_path: Path) -> None:
    check(quantize(tmp_path / "run", "--fitness", "jsd"), errors.ConfigError, "jsd", "topk-kl")
    assert not (tmp_path / "run" / "database").exists()


def test_directory_of_another_configuration(quantize: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    before = content(tmp_path / "run")
    check(quantize(tmp_path / "run", "--seed", "7"), errors.RunMismatch, "search.seed: 0 -> 7")
    assert content(tmp_path / "run") == before


def test_directory_that_holds_something_else(quantize: Call, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    check(quantize(tmp_path), errors.RunError, "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    check(quantize(tmp_path / "thesis.tex"), errors.RunError, "is a file")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["config.toml", "profile.json", "database/manifest.json", "journal.jsonl"])
def test_newer_schema(quantize: Call, call: Call, tmp_path: Path, name: str) -> None:
    quantize(tmp_path / "run")
    file = tmp_path / "run" / name
    newer, changed = re.subn(r'(schema_version = |"schema": |"journal":)\d+', r"\g<1>99", file.read_text())
    assert changed == 1
    file.write_text(newer)
    step = {"profile.json": "export"}.get(name, "search")
    check(call(step, tmp_path / "run"), errors.SchemaError, "99", "update evopress")


def test_directory_in_use_by_a_live_process(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    with (tmp_path / "run" / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check(call("search", tmp_path / "run"), errors.RunLocked, "in use by a live process")
        assert call("inspect", tmp_path / "run").code == 0
    assert call("search", tmp_path / "run").code == 0


def test_damaged_database_file(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    file = sorted((tmp_path / "run" / "database").glob("*.safetensors"))[5]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    check(call("search", tmp_path / "run"), errors.ChecksumError, file.name, "damaged")
    file.unlink()
    assert call("build", tmp_path / "run").code == 0
    assert file.read_bytes() == whole


def test_truncated_last_line_of_the_journal_is_scored_again(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    assert call("search", tmp_path / "run").code == 0
    assert journal.read_bytes() == whole


def test_damage_inside_the_journal(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    journal = tmp_path / "run" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2][:-10]
    journal.write_bytes(b"\n".join(lines))
    check(call("search", tmp_path / "run"), errors.JournalError, "line 3", "damaged")


def test_disk_too_small_for_the_plan(quantize: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check(quantize(tmp_path / "run"), errors.ResourceError, "disk", "10.0 kB free")
    assert not list((tmp_path / "run" / "database").glob("*.safetensors"))


def test_memory_too_small_for_the_plan(quantize: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evopress.steps.opened.available_memory", lambda device: 20_000)
    check(quantize(tmp_path / "run"), errors.ResourceError, "memory", "20.0 kB")


def test_a_device_that_runs_out_of_memory(quantize: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr("evopress.fitness.tree.Tree.walk", grow)
        check(quantize(tmp_path / "run"), errors.ResourceError, "ran out of memory", "the same command goes on")
    assert quantize(tmp_path / "run").code == 0


@pytest.mark.parametrize("step", ["build", "search", "evaluate", "export", "inspect"])
def test_steps_on_no_run(call: Call, tmp_path: Path, step: str) -> None:
    check(call(step, tmp_path), errors.RunError, "no run in", "evopress quantize")


def test_a_file_where_a_directory_should_be(quantize: Call, call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    check(quantize(tmp_path / "file" / "run"), errors.ResourceError, f"cannot use {tmp_path / 'file'}")
    quantize(tmp_path / "run")
    for command in ("report", "export"):
        result = call(command, tmp_path / "run", "-o", tmp_path / "file" / "out.html")
        check(result, errors.ResourceError, f"cannot use {tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"


def test_steps_out_of_order(quantize: Call, call: Call, tmp_path: Path) -> None:
    quantize(tmp_path / "run")
    (tmp_path / "run" / "profile.json").unlink()
    check(call("evaluate", tmp_path / "run"), errors.RunError, "run the search step first")
    shutil.rmtree(tmp_path / "run" / "database")
    check(call("search", tmp_path / "run"), errors.DatabaseError, "run the build step first")


def test_ctrl_c_says_how_to_go_on(quantize: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evopress.pipeline.search", interrupt)
        result = quantize(tmp_path / "run")
        assert result.code == 130
        assert "the same command goes on" in result.err.splitlines()[-1]
    assert quantize(tmp_path / "run").code == 0


def test_unknown_flags_and_missing_arguments(call: Call) -> None:
    assert call("quantize", "demo", "--colour", "red").code == 2
    assert call("quantize", "demo").code == 2


def test_errors_are_data_with_json_and_tracebacks_with_debug(call: Call, tmp_path: Path) -> None:
    result = call("inspect", tmp_path, "--json")
    assert json.loads(result.out)["exit_code"] == errors.RunError.exit_code
    assert "Traceback" in call("inspect", tmp_path, "--debug").err


@pytest.mark.parametrize(
    ("words", "error", "parts"),
    [
        ("drop --fraction 1", errors.BudgetError, ("fraction is 1", "below 1")),
        ("drop --fraction=-0.5", errors.BudgetError, ("fraction is -0.5", "from 0")),
        ("drop --fraction half", errors.ConfigError, ("half", "0.25")),
        ("drop --fraction 0.01", errors.BudgetError, ("drops 0 of 3 attn units", "1 to 2")),
        ("drop --fraction 0.99", errors.BudgetError, ("drops 3 of 3 attn units", "1 to 2")),
        ("drop --fraction 0.5 --protected model.layers.9", errors.ConfigError, ("model.layers.9",)),
        ("drop", errors.ConfigError, ("exactly one budget, got none", "fraction=0.25")),
        ("drop --size 9kB", errors.ConfigError, ("name the runtime with --target",)),
        ("drop --size 9kB --target vllm", errors.BudgetError, ("no profile takes 9000 bytes", "the levels allow")),
        ("drop --size 9kB --fraction 0.5", errors.ConfigError, ("exactly one budget",)),
        (
            "drop --size 9kB --target transformers --granularity sublayer",
            errors.ConfigError,
            ("model.layers.0.attn", "--granularity block"),
        ),
        ("sparsify --size 9kB", errors.ConfigError, ("stored dense", "no size can be met", "--sparsity")),
        ("sparsify --size 9kB --target vllm", errors.ConfigError, ("stored dense", "--sparsity")),
        ("sparsify", errors.ConfigError, ("exactly one budget, got none",)),
        ("sparsify --sparsity 1", errors.BudgetError, ("sparsity is 1", "below 1")),
        ("sparsify --sparsity=-0.1", errors.BudgetError, ("sparsity is -0.1",)),
        ("sparsify --sparsity 0.5 --pattern 4:4", errors.ConfigError, ("4:4", "2:4")),
        ("sparsify --sparsity 0.5 --pattern 24", errors.ConfigError, ("24", "N:M")),
        ("sparsify --sparsity 0.5 --pattern 3:7", errors.ConfigError, ("1:7", "48 columns")),
        ("sparsify --sparsity 0.9 --pattern 2:4 --method magnitude", errors.BudgetError, ("0.9", "nearest is 0.75")),
    ],
)
def test_budgets_and_patterns_that_do_not_fit(
    call: Call, checkpoint: Path, text: Path, tmp_path: Path, sizes: list[str],
    words: str, error: type[errors.EvopressError], parts: tuple[str, ...],
) -> None:  # fmt: skip
    command, *flags = words.split()
    check(call(command, checkpoint, "-o", tmp_path / "run", "--data", text, *sizes, *flags), error, *parts)


def test_a_model_with_one_block_has_nothing_to_drop(call: Call, text: Path, tmp_path: Path, sizes: list[str]) -> None:
    write_pico_checkpoint(tmp_path / "one", "llama", blocks=1)
    where = ("-o", tmp_path / "run", "--data", text, *sizes)
    result = call("drop", tmp_path / "one", *where, "--fraction", "0.5")
    check(result, errors.BudgetError, "1 attn unit", "one has to stay")


def test_drop_configs_that_do_not_fit_the_model(
    call: Call, checkpoint: Path, text: Path, tmp_path: Path, sizes: list[str]
) -> None:
    run, config = tmp_path / "run", tmp_path / "config.txt"
    assert call("drop", checkpoint, "-o", run, "--data", text, *sizes, "--fraction", "0.4").code == 0
    before = content(run)
    for lines, parts in {
        "none\nattn\n": ("2 lines for 3 blocks", "line 3 is missing"),
        "none\nattn\nmlp\nmlp\n": ("4 lines for 3 blocks", "line 4 is too many"),
        "none\nhead\nmlp\n": ("line 2", "'head'", "attn+mlp"),
    }.items():
        config.write_text(lines)
        check(call("evaluate", run, "--profile", config), errors.ProfileError, *parts)
    assert content(run) == before


def test_brute_force_beyond_the_limit_says_the_count(quantize: Call, call: Call, tmp_path: Path) -> None:
    assert quantize(tmp_path / "run").code == 0
    result = call("compare", tmp_path / "run", "--brute-force", "--json")
    why = json.loads(result.out)["skipped"]["brute-force"]
    assert result.code == 0
    assert "profiles meet the budget" in why
    assert "at most 10000" in why
