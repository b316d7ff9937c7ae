"""The paper profile: the paper's own figures key by key, and its whole chain on stand-ins for all
that must be downloaded.

The stand-ins are a random Qwen3 of ten thousand weights, a chat template with the parts of Qwen3's
that matter here, and local files with the columns of the real data sets. What is left unproven is
the download and the scale.
"""

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import datasets
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from pslib import __main__, methods, modes, policy, rewards, tasks, train
from pslib.evidence import analyses, artefacts, evaluate, tables
from pslib.lab import chain, export, records, runs
from tests.support.small_paper import TEMPLATE, put_all


# --- the paper's figures, key by key --------------------------------------------------------------
def _leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def _coefficient(method, name):
    return lambda p: p.method(method).coefficients[name]


# key of hyperparameters.yaml -> what the profile, or the code where the profile has no say, makes
# of it
HELD = {
    "train.dataset": lambda p: f"DeepMath-103K, {p.train.pool:,} rows sampled at random",
    "train.epochs": lambda p: round(p.train.steps * p.train.questions / p.train.pool),
    "train.batch_size": lambda p: p.train.questions,
    "train.learning_rate": lambda p: p.train.learning_rate,
    "train.grad_clip_norm": lambda p: p.train.grad_clip_norm,
    "train.weight_decay": lambda p: p.train.weight_decay,
    "train.rollouts_per_question": lambda p: p.train.group_size,
    "train.max_new_tokens": lambda p: p.train.max_new_tokens,
    "train.temperature": lambda p: p.train.temperature,
    "train.ppo_clip_eps": lambda p: p.train.clip_eps,
    **{
        f"policy_split.{name}": _coefficient("policy_split", name)
        for name in ("eta", "kappa", "alpha", "eta_normal")
    },
    "baselines.forking_token_only.masked_lowest_entropy": lambda p: (
        1 - _coefficient("forking", "keep")(p)
    ),
    "baselines.clip_cov.clip_ratio": _coefficient("clip_cov", "ratio"),
    "baselines.clip_cov.cov_lower": _coefficient("clip_cov", "lower"),
    "baselines.clip_cov.cov_upper": _coefficient("clip_cov", "upper"),
    "baselines.entropy_regularization.coef": _coefficient("entropy_regularization", "coef"),
    "baselines.entropy_advantage.alpha": _coefficient("entropy_advantage", "alpha"),
    "baselines.entropy_advantage.kappa": _coefficient("entropy_advantage", "kappa"),
    "test.max_new_tokens": lambda p: p.evaluate.max_new_tokens,
    "test.temperature": lambda p: p.evaluate.temperature,
    "test.top_k": lambda p: p.evaluate.top_k,
    "test.top_p": lambda p: p.evaluate.top_p,
    "test.samples_per_question": lambda p: p.evaluate.samples,
    "models": lambda p: [p.model.replace("{size}", size) for size in p.sizes],
}
# keys that no figure of the profile answers to: where they are held to account instead
ELSEWHERE = {
    "train.parameters",
    "train.lr_schedule",
    "train.optimizer",
    "train.top_k",
    "train.top_p",  # the test of the optimiser, below
    "train.kl_loss_coef",  # there is no such term in train.Run._update
    "baselines.entropy_driven_advantage.level",
    "baselines.entropy_driven_advantage.guided_error_correction",  # test_methods
    "baselines.entropy_regularization.tried",  # what was tried, not what was used
    "test.entropy",  # test_evaluate
    "benchmarks",  # the test of the data, below
    "reward",
    "significance",  # test_rewards, test_stats
}


@pytest.fixture(scope="module")
def paper():
    return runs.load_profile("paper")


def test_every_figure_of_the_paper_is_the_profiles(paper):
    reported = dict(
        _leaves(
            yaml.safe_load((runs.ROOT / "results" / "paper" / "hyperparameters.yaml").read_text())
        )
    )
    assert set(reported) == set(HELD) | ELSEWHERE and not set(HELD) & ELSEWHERE
    assert {key: look(paper) for key, look in HELD.items()} == {key: reported[key] for key in HELD}
    assert (
        not paper.coefficients
        and paper.he_prompt == "high_entropy"
        and set(paper.methods) == set(methods.METHODS)
    )


def test_all_weights_are_trained_by_adamw_at_one_rate_and_sampled_from_the_whole_vocabulary(
    paper, model, tokenizer
):
    model.config.max_position_embeddings, knows = 40960, copy.deepcopy(tokenizer)  # Qwen3's
    knows.chat_template = TEMPLATE
    state = train.Run(model, knows, methods.get("grpo"), paper.modes, paper.train, 0)
    (group,) = state.optimiser.param_groups
    assert type(state.optimiser) is torch.optim.AdamW and (group["lr"], group["weight_decay"]) == (
        3e-6,
        0.01,
    )
    assert {id(w) for w in group["params"]} == {id(w) for w in model.parameters()}
    assert (state.decoding.top_k, state.decoding.top_p) == (
        0,
        1.0,
    )  # -1 and 1 in the paper: no bound


def test_one_epoch_is_as_many_whole_batches_as_the_rows_make_and_none_is_seen_twice(paper):
    pool = [str(k) for k in range(paper.train.pool)]
    seen = [
        q
        for batch in tasks.batches(pool, paper.train.questions, paper.train.steps, 1)
        for q in batch
    ]
    assert (
        len(seen) == len(set(seen)) == 19968
        and paper.train.pool - len(seen) < paper.train.questions
    )


def test_every_benchmark_of_the_paper_is_asked_in_full(paper):
    assert [name for suite in tasks.SUITES for name in paper.data[suite]] == [
        "deepmath",
        "math500",
        "aime24",
        "aime25",
        "gpqa_diamond",
        "mmlu_pro",
    ]
    assert (
        paper.evaluate.questions == 12032
        and paper.stories == modes.prompts()["stories"]
        and len(paper.stories) == 13
    )


ASKED = []  # (answer, how grading was asked) of each response of the chain below


# --- the chain on stand-ins -----------------------------------------------------------------------
@pytest.fixture(scope="module")
def standing(tmp_path_factory, _lively, tokenizer):
    """The paper profile scaled down: its methods, modes and decoding, on a tiny model and local
    files.
    """
    root = tmp_path_factory.mktemp("standing")
    ASKED.clear()

    def graded(text, answer, **asked):
        ASKED.append((answer, asked))
        return float(len(text) % 2)

    knows, model = copy.deepcopy(tokenizer), copy.deepcopy(_lively)
    knows.chat_template = TEMPLATE
    model.config.max_position_embeddings = 1024
    model.generation_config.eos_token_id = [1, *range(20, 40)]
    model.save_pretrained(root / "Qwen3-tiny")
    knows.save_pretrained(root / "Qwen3-tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(root / "results"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        patch.setattr(rewards, "grade", graded)
        datasets.disable_progress_bars()
        whole = runs.load_profile("paper")
        profile = replace(
            whole,
            model=str(root / "Qwen3-{size}"),
            sizes=["tiny"],
            data=put_all(root / "data"),
            methods=["original", "grpo", "policy_split"],
            he_prompt="high_entropy_short",
            train=replace(
                whole.train, steps=2, questions=4, group_size=4, pool=8, max_new_tokens=12
            ),
            evaluate=replace(whole.evaluate, questions=3, samples=2, max_new_tokens=12),
            probe=evaluate.Probe(["policy_split"], stories=1, best_of_n=2, samples=2),
        )
        patch.setattr(runs, "load_profile", lambda name: profile)
        for method in profile.methods[1:]:
            chain.train_run(profile, method, "tiny", 1)
        for method in profile.methods:
            chain.evaluate_run(profile, method, "tiny", 1)
        yield profile


def test_the_chain_runs_to_table_1_with_the_papers_settings(standing):
    table = artefacts.write(standing, "table1_general")["table1_general"]
    assert (
        table.label.tolist() == ["Original", "GRPO", "Policy Split", "Policy Split + HE prompt"]
        and (table.seeds == 1).all()
    )
    assert table[analyses.SUITES].notna().all().all()
    shown = tables.shown(table)
    assert (
        "AIME acc %" in shown
        and "GPQA bits" in shown
        and not any("role" in heading for heading in shown)
    )


def test_answers_are_graded_as_each_data_set_asks_and_thinking_must_have_an_end(standing):
    assert all(asked["thinking"] for _, asked in ASKED)
    for (
        answer,
        asked,
    ) in ASKED:  # of DeepMath and MATH-500; not the others' letters and whole numbers
        assert asked.get("worked_out", False) == ("frac" in answer or "x^" in answer)


def test_training_asks_deepmath_and_evaluation_each_benchmark(standing):
    folder = runs.run_folder(standing, "policy_split", "tiny", 1)
    assert (
        pd.read_parquet(folder / "rollouts.parquet").question_id.str.match(r"deepmath-\d+$").all()
    )
    table = pd.read_csv(folder / "evaluation.csv")
    asked = table.groupby("suite").question_id.agg(lambda ids: {i.rpartition("-")[0] for i in ids})
    assert (
        asked["like"] == {"math500"}
        and asked["long"] <= {"aime24", "aime25"}
        and asked["mixed"] == {"mmlu_pro"}
    )
    assert set(table.derivation) == {"other"} and len(table) == 4 * 2 * 3 * 2


def test_what_was_read_is_in_the_runs_manifests(standing):
    folder = runs.run_folder(standing, "policy_split", "tiny", 1)
    inputs = json.loads((folder / "manifest.json").read_text())["inputs"]
    assert (
        inputs["base"].endswith("Qwen3-tiny")
        and inputs["data"].startswith("deepmath=")
        and "; 8 rows " in inputs["data"]
    )
    inputs = json.loads((folder / "evaluation.json").read_text())["inputs"]
    assert set(inputs) == {"model", *tasks.TEST_SUITES} and inputs["long"].count("@folder") == 2
    params = yaml.safe_load((folder / "params.yaml").read_text())
    assert (
        params["enable_thinking"] is True
        and params["data"] == standing.data
        and "base" not in params
    )
    with pytest.raises(ValueError, match="made with other settings"):
        chain.train_run(replace(standing, enable_thinking=False), "policy_split", "tiny", 1)


def test_unfinished_responses_are_a_metric_of_training_and_a_column_of_evaluation(standing):
    folder = runs.run_folder(standing, "policy_split", "tiny", 1)
    shares = pd.read_csv(folder / "metrics.csv").unfinished
    assert shares.between(0, 1).all() and (shares * 16 % 1 == 0).all()
    table = pd.read_csv(folder / "evaluation.csv")
    assert set(table.unfinished) == {0, 1} and (table.tokens[table.unfinished == 1] == 12).all()


def test_thinking_reaches_the_prompts_of_both_modes(standing):
    _, tokenizer = chain.trained_model(standing, "original", "tiny", 1)
    for thinking in (True, False):
        for mode in replace(standing, enable_thinking=thinking).modes:
            assert ("<think>" in tokenizer.decode(modes.render(tokenizer, mode, "7+8"))) is (
                not thinking
            )
    tokenizer.chat_template = TEMPLATE.replace("enable_thinking is false", "false")
    with pytest.raises(ValueError, match="chat template ignores it"):
        modes.render(tokenizer, standing.modes[0], "7+8")


def test_probes_ask_the_papers_stories_and_the_benchmarks(standing):
    found = chain.probe_run(standing, "policy_split", "tiny", 1)
    assert (
        set(found["stories"].prompt) == set(modes.prompts()["stories"])
        and found["stories"].told.isna().all()
    )
    assert found["best_of_n"].question_id.str.match("math500|aime2[45]").all()
    assert len(artefacts.write(standing, "table2_creative")["table2_creative"]) == 2


def test_a_data_set_that_cannot_be_read_is_said_before_any_model_is_loaded(standing, monkeypatch):
    monkeypatch.setattr(policy, "load", lambda *a: pytest.fail("loaded a model first"))
    far = replace(standing, data={**standing.data, "train": {"deepmath": "zwhe99/DeepMath-103K"}})
    with pytest.raises(OSError, match="data set deepmath could not be read.*hf download"):
        chain.train_run(far, "grpo", "tiny", 2)


# --- the trained model, without pslib -------------------------------------------------------------
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "pslib": raise ImportError("no pslib here")
sys.meta_path.insert(0, Refuse())
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
try:
    import pslib
except ImportError:
    tokenizer = AutoTokenizer.from_pretrained(".")
    model = AutoModelForCausalLM.from_pretrained(".", dtype=torch.float32)
    out = {}
    for mode, system in json.load(open("modes.json")).items():
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": "7+8"})
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, enable_thinking=True
        )
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        out[mode] = {"ids": ids, "logits": logits}
    print(json.dumps(out))
    code = open("README.md").read().split("```python")[1].split("```")[0]
    exec(code)
"""


def test_an_exported_model_is_used_without_pslib_and_is_the_trained_one(standing, tmp_path):
    assert (
        __main__.main(
            ["export", "paper", "policy_split", "tiny", "1", "--out", str(tmp_path / "out")]
        )
        == 0
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=True,
        env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    said, *used = done.stdout.split("\n", 1)
    model, tokenizer = chain.trained_model(standing, "policy_split", "tiny", 1)
    for mode in standing.modes:
        ids = modes.render(tokenizer, mode, "7+8")
        assert json.loads(said)[mode.name]["ids"] == ids
        ours = model(input_ids=torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(
            torch.tensor(json.loads(said)[mode.name]["logits"]), ours, rtol=1e-4, atol=1e-4
        )
    assert used[0].startswith("normal ") and "\nhe " in used[0]  # the card's ten lines
    base = chain.trained_model(standing, "original", "tiny", 1)[0]
    assert not torch.equal(
        base.lm_head.weight, AutoModelForCausalLM.from_pretrained(tmp_path / "out").lm_head.weight
    )


def test_the_card_says_what_the_run_was_from_the_runs_own_files(standing, tmp_path):
    export.export(standing, "policy_split", "tiny", 1, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert (
        text.startswith("---\n")
        and yaml.safe_load(text.split("---")[1])["library_name"] == "transformers"
    )
    summary = evaluate.summary(
        pd.read_csv(runs.run_folder(standing, "policy_split", "tiny", 1) / "evaluation.csv")
    )
    for said in (
        "# Policy Split, tiny, seed 1",
        "eta 0.03, kappa 2.0, alpha 0.5",
        "Qwen3-tiny",
        "deepmath=",
        standing.modes[1].system,
        "enable_thinking=True",
        "temperature=0.6, top_k=20, top_p=0.95",
        f"{summary.entropy_bits[0]:.4f}".rstrip("0"),
        "learning_rate 3e-06",
        "its licence applies",
        "last step in which all was measured: step 1, ",
    ):
        assert said in text, said


def test_the_card_the_record_and_the_manifest_show_both_prompts_as_the_template_writes_them(
    standing, tmp_path
):
    export.export(standing, "policy_split", "tiny", 1, tmp_path / "out")
    folder, text = (
        runs.run_folder(standing, "policy_split", "tiny", 1),
        (tmp_path / "out" / "README.md").read_text(),
    )
    prompts = yaml.safe_load((folder / "params.yaml").read_text())["inputs"]["prompts"]
    assert prompts == json.loads((folder / "manifest.json").read_text())["inputs"]["prompts"]
    tokenizer = chain.trained_model(standing, "policy_split", "tiny", 1)[1]
    assert prompts == modes.rendered(tokenizer, standing.modes) and list(prompts) == [
        "normal",
        "he",
    ]
    for name, prompt in prompts.items():
        assert (
            f"{ {'normal': 'Normal', 'he': 'High-entropy'}[name] } mode:\n\n```text\n{prompt}\n```"
            in text
        )
    assert "date" not in prompts and "asks for the date" not in text


def test_of_a_run_from_before_prompts_were_recorded_the_card_shows_those_of_its_tokenizer(
    standing, tmp_path
):
    params = runs.run_folder(standing, "policy_split", "tiny", 1) / "params.yaml"
    kept = params.read_text()
    old = yaml.safe_load(kept)
    prompts = old.pop("inputs")["prompts"]
    try:
        params.write_text(yaml.safe_dump(old))
        export.export(standing, "policy_split", "tiny", 1, tmp_path / "out")
    finally:
        params.write_text(kept)
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(prompt in text for prompt in prompts.values())


def test_an_exported_model_keeps_the_date_that_its_template_was_told(standing, tmp_path):
    folder = runs.run_folder(standing, "policy_split", "tiny", 1)
    dated = tmp_path / "dated"
    shutil.copytree(folder.parents[1], dated / "local" / "paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PSLIB_RESULTS", str(dated))
        there = runs.run_folder(standing, "policy_split", "tiny", 1)
        template, record = (
            there / "model" / "chat_template.jinja",
            yaml.safe_load((there / "params.yaml").read_text()),
        )
        template.write_text("Today is {{ strftime_now('%d %B %Y') }}.\n" + template.read_text())
        record.pop("inputs")
        (there / "params.yaml").write_text(yaml.safe_dump(record))
        manifest = json.loads((there / "manifest.json").read_text())
        manifest["inputs"]["model"] = records.files_digest(there / "model")
        (there / "manifest.json").write_text(json.dumps(manifest))
        export.export(standing, "policy_split", "tiny", 1, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "was always told 2024-07-26" in text and "Today is 26 July 2024." in text
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    plain = tokenizer.apply_chat_template(
        [{"role": "user", "content": "7"}], tokenize=False, enable_thinking=True
    )
    assert plain.startswith("Today is 26 July 2024.")


def test_what_cannot_be_exported_is_refused(standing, tmp_path):
    with pytest.raises(ValueError, match="Original is not trained"):
        export.export(standing, "original", "tiny", 1, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is not trained yet"):
        export.export(standing, "grpo", "tiny", 9, tmp_path / "out")
    with pytest.raises(ValueError, match="is there already"):
        export.export(standing, "grpo", "tiny", 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_is_on_the_disk_before_it_has_its_name(
    tmp_path, model, tokenizer, monkeypatch
):
    synced = []
    monkeypatch.setattr(
        chain.checkpoint,
        "sync",
        lambda path: synced.append((path.name, (tmp_path / "model").exists())),
    )
    chain.save_model(tmp_path / "model", model, tokenizer)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {name for name, there in synced[:-2]}
    assert synced[-2:] == [(".model.tmp", False), (tmp_path.name, True)] and not any(
        there for _, there in synced[:-1]
    )
