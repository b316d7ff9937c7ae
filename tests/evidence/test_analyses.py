"""Analyses, tables and artefacts on a folder of made-up results whose numbers are known by hand."""

import itertools
import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from pslib.evidence import analyses, artefacts, evaluate, figures, tables, verdicts
from pslib.lab import reproduce, runs
from tests.support import evidence


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return evidence.write(tmp_path_factory.mktemp("evidence"))


# --- again ----------------------------------------------------------------------------------------
def _edit(path, change):
    table = pd.read_csv(path)
    change(table)
    table.to_csv(path, index=False)


def test_a_run_repeats_the_committed_one_in_every_digit_but_seconds(found, tmp_path):
    profile, folder = found
    committed = shutil.copytree(folder, tmp_path / "committed") / "runs"
    _edit(committed / "grpo-0.2m-s1" / "metrics.csv", lambda t: t.update(t.seconds_sample * 2))
    _edit(committed / "grpo-0.2m-s2" / "metrics.csv", lambda t: t.update(t.accuracy_normal * 1.01))
    _edit(committed / "grpo-0.2m-s2" / "evaluation.csv", lambda t: t.update(t.entropy_bits + 0.1))
    _edit(
        committed / "grpo-0.2m-s2" / "evaluation.csv",
        lambda t: t.update(t.correct.where(t.question_id != "like-0", 0)),
    )
    shutil.rmtree(committed / "eta_1-0.2m-s3")
    table = tables.repeated(profile, folder, committed.parent).set_index("run")
    assert "eta_1-0.2m-s3" not in table.index and "original-0.2m-s1" not in table.index
    assert list(table.index[~table.same]) == ["grpo-0.2m-s2"]
    assert table.acc["grpo-0.2m-s2"] == pytest.approx(
        1 / 4
    )  # a response of 100, in one of 4 suites
    assert table.ent["grpo-0.2m-s2"] == pytest.approx(0.1)
    assert (table[table.same][["acc", "ent"]] == 0).all(axis=None)
    assert len(table) == 7 * 3 - 1


def test_how_many_runs_repeat_the_committed_ones_is_said_in_a_sentence():
    same = pd.DataFrame({"run": ["a", "b"], "same": True, "acc": 0.0, "ent": 0.0})
    assert reproduce.repetition(same) == (
        "All 2 runs repeat the committed ones to the last digit of every step."
    )
    apart = same.assign(same=[True, False], acc=[0.0, 3.0], ent=[0.0, 0.02])
    assert reproduce.repetition(apart) == (
        "1 of 2 runs repeat the committed ones to the last digit of every step. On another "
        "processor or installation rounding differs, and sampled responses with it: in the normal "
        "mode a run ends 1.5 points and 0.010 bits from the committed one on average, at most 3.0 "
        "points and 0.020 bits."
    )
    assert reproduce.repetition(same.iloc[:0]) == "There is no committed run to compare with."


# --- best of n ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "samples, correct, n", [(4, 1, 2), (5, 2, 3), (6, 0, 3), (4, 4, 1), (5, 3, 5), (4, 1, 0)]
)
def test_best_of_n_is_the_share_of_all_draws_that_hold_a_right_response(samples, correct, n):
    responses = [k < correct for k in range(samples)]
    draws = list(itertools.combinations(responses, n))
    assert analyses.best_of(correct, samples, n) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("correct, samples, n", [(5, 4, 1), (-1, 4, 1), (2, 4, 5)])
def test_best_of_n_refuses_what_cannot_be(correct, samples, n):
    with pytest.raises(ValueError, match="0 <= correct <= samples and n <= samples"):
        analyses.best_of(correct, samples, n)


def test_half_of_the_budget_in_each_mode_solves_what_either_solves(found):
    table = (
        analyses.best_of_n(*found)
        .query("method == 'policy_split' and seed == 1")
        .set_index(["sampling", "n"])
        .accuracy
    )
    # of 4 samples q1 has 2 right in the normal mode and 1 in the HE mode, q2 0 and 4, q3 none, q4 1
    # and 0
    assert table["normal", 1] == pytest.approx(100 * (2 / 4 + 0 + 0 + 1 / 4) / 4)
    assert table["normal", 2] == pytest.approx(100 * ((1 - 1 / 6) + 0 + 0 + 1 / 2) / 4)
    # one response in each mode: q1 1 - (1/2)(3/4), q2 1, q3 0, q4 1/4
    assert table["both", 2] == pytest.approx(100 * ((1 - 0.5 * 0.75) + 1 + 0 + 0.25) / 4)
    assert ("both", 1) not in table.index and max(n for _, n in table.index) == 4
    alone = analyses.solved_by_one(*found).query("method == 'grpo'").iloc[0]
    assert (alone.only_normal, alone.only_he, alone.neither) == (25.0, 25.0, 25.0)


# --- dynamics, behaviour, prompts, cost -----------------------------------------------------------
def test_dynamics_hold_measured_steps_only_and_start_is_the_first_and_the_end_a_mean_of_five(found):
    table = analyses.dynamics(*found)
    assert 2 not in set(table.step) and len(table.query("method == 'grpo' and seed == 1")) == 10
    ends = analyses.start_and_end(*found).query("method == 'policy_split' and seed == 1").iloc[0]
    assert ends.kl_he_from_normal_start == pytest.approx(0.001 * 1 + 0.0001)
    assert ends.kl_he_from_normal_end == pytest.approx(
        0.001 * (26 + 31 + 36 + 41 + 46) / 5 + 0.0001
    )
    assert ends.kl_he_from_normal_peak == ends.kl_he_from_normal_end  # it only grows
    assert set(table.method) >= {"grpo", "eta_1", "unshared"}


def test_learning_is_accuracy_above_grpos_of_the_same_seed_in_each_quarter_and_has_peaks_inside(
    tmp_path,
):
    profile, folder = evidence.write(tmp_path)
    path = folder / "runs" / "policy_split-0.2m-s2" / "metrics.csv"
    metrics = pd.read_csv(path)  # of 150 steps the first quarter ends with step 37
    metrics.loc[metrics.step > 37, ["accuracy_he", "kl_he_from_normal"]] = [0.8, 0.0]
    metrics.loc[metrics.step == 46, "accuracy_normal"] = 0.7
    for file, table in (
        (path, metrics),
        (grpo := path.parents[1] / "grpo-0.2m-s2" / "metrics.csv", pd.read_csv(grpo)),
    ):
        # The last step belongs to the last quarter.
        table.loc[len(table)] = table.iloc[-1].replace(46, 150)
        table.to_csv(file, index=False)
    table = analyses.learning(profile, folder).query("seed == 2").set_index(["method", "mode"])
    assert table.quarter_1["policy_split", "he"] == pytest.approx(-10) and table.quarter_2[
        "policy_split", "he"
    ] == pytest.approx(30)
    assert table.quarter_2["policy_split", "normal"] == pytest.approx(
        10
    )  # steps 41 and 46: 50 and 70 against 50
    assert (
        table.quarter_2["policy_split_released", "he"] == pytest.approx(-10)
        and table.quarter_3.isna().all()
    )
    assert table.quarter_4["policy_split", "he"] == pytest.approx(30)
    assert not {"grpo", "original"} & set(table.index.get_level_values("method"))
    ends = (
        analyses.start_and_end(profile, folder)
        .query("method == 'policy_split' and seed == 2")
        .iloc[0]
    )
    assert ends.kl_he_from_normal_peak == pytest.approx(
        0.001 * (16 + 21 + 26 + 31 + 36) / 5 + 0.0002
    )
    smooth = (
        analyses.dynamics(profile, folder)
        .query("method == 'policy_split' and seed == 2")
        .set_index("step")
        .accuracy_normal
    )
    assert smooth[46] == pytest.approx((4 * 0.5 + 0.7) / 5) and smooth[1] == 0.5


def test_the_distance_between_modes_is_half_the_sum_of_the_differences_of_their_shares(found):
    table = analyses.behaviour(*found).query("seed == 1").set_index("method")
    assert table.distance["policy_split"] == pytest.approx(0.3) and table.distance[
        "grpo"
    ] == pytest.approx(0.1)
    assert 0 < table.chance["grpo"] < 0.05 and table.kl["policy_split"] == 0.2


def test_prompts_are_told_as_changes_from_the_same_runs_normal_mode(found):
    row = (
        analyses.prompt_generalization(*found)
        .query("method == 'grpo' and seed == 2 and prompt == 'trained'")
        .iloc[0]
    )
    assert row.entropy_change == pytest.approx(
        0.05 + 0.002
    ) and row.accuracy_change == pytest.approx(-10)
    assert "none" not in set(analyses.prompt_generalization(*found).prompt)


def test_cost_is_the_mean_step_and_its_parts(found):
    row = analyses.cost(*found).query("method == 'policy_split' and seed == 3").iloc[0]
    assert (row.seconds_sample, row.seconds_score, row.seconds_update, row.seconds) == (
        4.0,
        0.5,
        2.0,
        6.5,
    )


def test_the_bonus_is_told_by_kind_beside_the_advantage(found):
    table = analyses.bonus_by_kind(*found).set_index("kind")
    assert table.mean_bonus["plan"] == 1.5 and table.paper_median["sum"] == pytest.approx(0.015)
    assert table.released_max["plan"] == pytest.approx(0.12) and table.tokens.to_dict() == {
        "plan": 2,
        "sum": 1,
    }


def test_over_seeds_gives_means_and_students_interval():
    table = pd.DataFrame({"k": ["b", "b", "a"], "seed": [1, 2, 1], "x": [1.0, 3.0, 5.0]})
    out = analyses.over_seeds(table, ["k"], ["x"]).set_index("k")
    assert list(out.index) == ["b", "a"] and out.x["b"] == 2 and out.seeds["b"] == 2
    assert out.x_ci["b"] == pytest.approx(12.7062, rel=1e-4) and math.isnan(out.x_ci["a"])


# --- tables ---------------------------------------------------------------------------------------
OWN = {
    "a baseline": {"of": "entropy_regularization", "coef": 0.02},
    "two coefficients": {"of": "policy_split", "eta": 0.5, "kappa": 3.0},
    "the released form": {"of": "policy_split_released", "eta": 0.1},
}


@pytest.mark.parametrize("given", OWN.values(), ids=OWN)
def test_an_ablation_without_a_counterpart_is_set_against_grpo(given):
    profile = replace(runs.load_profile("quick"), variants={"own": given})
    folder = runs.ROOT / "results" / "quick"
    table = tables.ablations(profile, folder)
    assert set(table[table.variant == "own"].reference) == {"grpo"}
    drawn = figures.eta_ablation(profile, folder).axes[0].lines
    assert [line.get_xdata().tolist() for line in drawn[:1]] == [[0.03]]  # eta alone is swept


def test_ablations_are_paired_with_policy_split_of_the_same_eta_and_eta_with_grpo(found):
    table = tables.ablations(*found)
    beyond = table[table.reference == "clip_order"]
    assert set(beyond.variant) == {"policy_split_released"} and beyond["mode"].tolist() == [
        "normal",
        "he",
    ]
    assert (
        beyond.average_acc_change.isna().all() and (beyond.seeds == 3).all()
    )  # clip_order was not run
    table = table.drop(beyond.index).set_index(["variant", "mode"])
    assert table.reference["eta_1", "he"] == "grpo" and table.average_acc_change[
        "eta_1", "normal"
    ] == pytest.approx(-10)
    assert table.reference["unshared", "he"] == "eta_1" and table.average_acc_change[
        "unshared", "he"
    ] == pytest.approx(2)
    assert table.average_acc_change_ci["unshared", "he"] == pytest.approx(
        0
    )  # the seeds' jitter cancels in pairs
    assert (
        table.reference["policy_split_released", "normal"]
        == "policy_split"
        == table.reference["doubled", "normal"]
    )
    assert table.seeds["doubled", "normal"] == 0 and math.isnan(
        table.average_acc["doubled", "normal"]
    )  # not run: a blank
    assert table.kl_end["eta_1", "he"] == pytest.approx(0.0362)


def test_table_2_is_the_mean_over_prompts_then_seeds_in_both_modes(found):
    table = tables.table2(*found).set_index("label")
    assert (
        table.div_2gram["Policy Split + HE prompt"] == 62
        and table.div_2gram["GRPO + HE prompt"] == 52
    )
    assert table.div_2gram_ci["GRPO"] == pytest.approx(
        4.3027 / 3**0.5, rel=1e-4
    )  # t of 2 degrees of freedom; s = 1


def test_judged_stories_are_blank_where_no_judge_is_configured(found, monkeypatch, tmp_path):
    for name in ("URL", "MODELS", "KEY"):
        monkeypatch.delenv(f"PSLIB_JUDGE_{name}", raising=False)
    assert list(tables.judged(*found).columns) == [
        "size",
        "label",
        "judge",
        *tables.creative.RUBRICS,
    ]
    folder = tmp_path / "runs" / "grpo-0.2m-s1"
    folder.mkdir(parents=True)
    pd.DataFrame({"mode": "he", "prompt": "p", "sample": [0, 1], "story": ["a", "b"]}).to_parquet(
        folder / "story_texts.parquet"
    )
    row = tables.judged(found[0], tmp_path).iloc[0]
    assert row.label == "GRPO + HE prompt" and row.judge == "" and math.isnan(row.creativity)


def test_stories_are_judged_where_a_seed_is_the_base_models(tmp_path):
    profile = runs.load_profile("understood")
    size = profile.sizes[0]
    folder = tmp_path / "runs" / runs.run_id("grpo", size, profile.seeds_of(size)[0])
    folder.mkdir(parents=True)
    pd.DataFrame({"mode": "he", "prompt": "p", "sample": [0], "story": ["a"]}).to_parquet(
        folder / "story_texts.parquet"
    )
    assert len(tables.judged(profile, tmp_path)) == 1


def test_without_a_judge_the_notebook_shows_a_sentence(found, monkeypatch):
    rows = {"size": "0.2m", "label": "GRPO", "judge": ["", None], "imagery": math.nan}
    monkeypatch.setattr(tables, "judged", lambda *given: pd.DataFrame(rows))
    assert artefacts.show_judged(*found).data == "No judge is configured: no scores of ours."
    rows |= {"judge": ["", "one"], "imagery": [math.nan, 80.0]}
    assert artefacts.show_judged(*found).imagery.tolist() == [80.0]


# --- artefacts ------------------------------------------------------------------------------------
def test_a_part_of_a_shown_table_has_no_index_and_breaks_no_line_at_a_plus_minus():
    table = artefacts.Shown({"method": ["GRPO"], "bits": ["0.4 ± 0.1"], "seeds": [5]})
    page = table[["method", "bits"]]._repr_html_()
    assert "0.4\u00a0±\u00a00.1" in page and "<th>0</th>" not in page and "seeds" not in page


def test_a_profile_without_results_has_empty_artefacts_and_no_error(tmp_path):
    for name in ("smoke", "nano"):
        profile = runs.load_profile(name)
        artefacts.write_all(profile, tmp_path / name)
    assert (
        pd.read_csv(tmp_path / "nano" / "tables" / "verdicts.csv")
        .verdict.eq("not testable here")
        .all()
    )


def _of_any_profile():
    return [name for name, each in artefacts.listed().items() if "profile" not in each]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of all artefacts of made-up results."""
    root = tmp_path_factory.mktemp("written")
    profile, folder = evidence.write(root / "nano")
    profile = replace(profile, wording="{sum}")  # as of a pretrained model
    evidence.write_prompts(folder)
    evidence.write_parting(root, split=[0.03, 0.05], unheeded=[0.001, 0.002])
    assert artefacts.write_all(profile, folder) == _of_any_profile()
    return folder


def test_every_artefact_is_written_from_results_alone_and_has_content(written):
    for artefact in map(artefacts.listed().get, _of_any_profile()):
        for table in artefact["tables"]:
            assert len(pd.read_csv(written / "tables" / f"{table}.csv")) > 0
        for figure in artefact.get("figures", ()):
            for kind in ("svg", "png"):
                assert (written / "figures" / f"{figure}.{kind}").stat().st_size > 5000


def test_every_table_begins_with_a_title_and_a_caption_and_no_line_breaks_at_a_plus_minus(written):
    pages = sorted((written / "tables").glob("*.md"))
    assert len(pages) > 15
    for page in pages:
        title, caption, table = page.read_text(encoding="utf-8").split("\n\n", 2)
        assert title.startswith("# ") and caption.endswith(".") and "|:--" in table
        assert " ±" not in table and "± " not in table
    # heads are words, with a key to those that need one, and texts stand on the left
    text = (written / "tables" / "behaviour.md").read_text(encoding="utf-8")
    assert "| method " in text and "label" not in text and "\u00a0±\u00a0" in text
    assert "- **replicates**: what these runs differ in" in text and "--:|" not in text


def test_verdicts_are_read_in_four_columns_and_checks_claim_by_claim(written):
    text = (written / "tables" / "verdicts.md").read_text(encoding="utf-8")
    heads = next(line for line in text.splitlines() if line.startswith("|"))
    assert [head.strip() for head in heads.strip("|").split("|")] == [
        "claim",
        "the paper",
        "verdict",
        "why",
    ]
    text = (written / "tables" / "checks.md").read_text(encoding="utf-8")
    assert "\n## C2: Policy Split's normal mode has the best" in text and "bootstrap" not in text
    table = pd.read_csv(written / "tables" / "checks.csv")
    assert {"bootstrap_low", "d_z", "p_holm", "detectable"} <= set(table)


def test_one_head_means_one_thing():
    heads = analyses.written("artefacts")["heads"]
    said = {}
    for head, meaning in heads.values():
        assert said.setdefault(head, meaning) == meaning


def test_a_notebook_shows_a_table_without_its_index(found):
    html = artefacts.show(*found[:1], "cost", found[1])["cost"]._repr_html_()
    assert "<th>0</th>" not in html and "text-align: left" in html


def test_a_card_says_what_the_paper_reports_what_came_out_and_why(tmp_path):
    profile, folder = evidence.write(tmp_path)
    (folder / "why.yaml").write_text("C3: it is small (notebooks 05 and 20)\n")
    checks = verdicts.checks(profile, folder)
    table = verdicts.verdicts(profile, folder, checks)
    cards = list(verdicts.cards(table, checks))
    assert len(cards) == 10
    text, own = cards[2]
    assert text.startswith("**C3. It revives entropy") and "*paper*: normal mode +0.40" in text
    assert "*why*: it is small" in text and "released bonus, seeds of one base model: **" in text
    assert "[05_base_model](05_base_model.ipynb), [20_dynamics](20_dynamics.ipynb)" in text
    assert own.claim.tolist() == ["C3", "C3 released"] and own.check.nunique() == 1
    figure = figures.strip(own)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["nano 0.2m", "nano 0.2m (released bonus)"]
    figures.plt.close(figure)


# --- figures --------------------------------------------------------------------------------------
def test_no_interval_reaches_beyond_what_a_quantity_can_be():
    below, above = figures._reach([0.02, 99.0, 50.0], [0.05, 3.0, 2.0], 0, 100)
    assert below.tolist() == [0.02, 3.0, 2.0] and above.tolist() == [0.05, 1.0, 2.0]
    assert math.isnan(figures._reach(1.0, math.nan, 0)[0][0])  # one run has no interval


def test_no_band_is_drawn_below_zero_for_a_kl(tmp_path):
    evidence.write_parting(tmp_path, split=[0.0, 0.05])  # 0.025 ± 0.32
    figure = figures.dynamics(runs.load_profile("split"), tmp_path / "split")
    kl = figure.axes[2]
    lowest = [path.vertices[:, 1].min() for band in kl.collections for path in band.get_paths()]
    assert lowest and min(lowest) == 0
    figures.plt.close(figure)


def test_policy_split_alone_is_in_colour_and_every_method_has_its_own_marker():
    def is_grey(colour):
        return colour[1:3] == colour[3:5] == colour[5:7]

    coloured = {name for name, (colour, _) in figures.LOOKS.items() if not is_grey(colour)}
    assert coloured == {name for name in figures.LOOKS if name.startswith("policy_split")}
    assert len({marker for _, marker in figures.LOOKS.values()}) == len(figures.LOOKS)


def test_an_unknown_artefact_is_refused():
    with pytest.raises(
        ValueError, match="no artefact is called 'table3'; there are table1_general"
    ):
        artefacts.write(runs.load_profile("smoke"), "table3")


def test_the_figure_of_dynamics_draws_both_modes_with_bands(found):
    figure = figures.dynamics(*found)
    accuracy, entropy, kl = figure.axes  # one size has results: one column
    assert [line.get_ydata()[0] for line in accuracy.lines[:3]] == pytest.approx([0.5, 0.5, 0.4])
    assert [line.get_label() for line in entropy.lines] == [
        "GRPO",
        "Policy Split",
        "Policy Split, HE mode",
        "Policy Split (released code's bonus)",
        "Policy Split (released code's bonus), HE mode",
    ]
    assert [axis.get_gridspec().ncols for axis in figure.axes] == [3, 3, 3]
    assert len(kl.lines) == 2 and kl.lines[0].get_ydata()[0] == pytest.approx(0.001 + 0.0002)
    figures.plt.close(figure)


def test_figure_1c_stands_beside_ours_on_the_same_scales_and_with_its_legend_swapped(found):
    figure = figures.beside_figure_1c(found)
    reported, ours, reported_kl, our_kl = figure.axes
    assert "figure 1c" in reported.get_title() and "nano 0.2m, eta 0.03" in ours.get_title()
    ends = [(line.get_label(), line.get_ydata()[-1]) for line in reported.lines]
    assert ends == [("normal mode", 0.5), ("HE mode", 0.68)]
    assert [line.get_ydata()[0] for line in ours.lines] == pytest.approx([0.399, 0.409])
    assert reported_kl.lines[0].get_ydata()[-1] == 0.222
    assert our_kl.lines[0].get_ydata()[0] == pytest.approx(0.001 + 0.0002)
    assert reported.get_ylim() == ours.get_ylim() and reported_kl.get_ylim() == our_kl.get_ylim()
    figures.plt.close(figure)


@pytest.mark.parametrize(
    "name",
    [
        "accuracy_against_entropy",
        "dynamics",
        "eta_ablation",
        "part_ablation",
        "prompt_generalization",
    ],
)
def test_a_figure_with_intervals_says_what_they_are_over(found, name):
    figure = getattr(figures, name)(*found)
    (legend,) = figure.legends
    assert "95% intervals over seeds of one base model" in legend.get_title().get_text()
    figures.plt.close(figure)


@pytest.mark.parametrize("name", ["dynamics", "eta_ablation", "part_ablation"])
def test_a_figure_of_single_runs_speaks_of_no_interval(found, name):
    profile, folder = found
    profile = replace(profile, seeds=[1])
    figure = getattr(figures, name)(profile, folder)
    assert not any("interval" in legend.get_title().get_text() for legend in figure.legends)
    figures.plt.close(figure)


def test_where_one_run_of_several_was_asked_no_interval_is_spoken_of(found, tmp_path):
    profile, folder = found
    some = shutil.copytree(folder, tmp_path / "some")
    for seed in (2, 3):
        for path in some.glob(f"runs/*-s{seed}/prompts.csv"):
            path.unlink()
    figure = figures.prompt_generalization(profile, some)
    assert not any("interval" in legend.get_title().get_text() for legend in figure.legends)
    figures.plt.close(figure)


def test_the_dynamics_of_a_variant_and_of_a_run_outside_the_grid_are_drawn(found):
    profile, folder = found
    (folder / "runs" / "eta_1-0.2m-s3").rename(folder / "runs" / "eta_1-0.2m-s9")
    for grid, first in ((None, 0.00115), ([("eta_1", "0.2m", 9)], 0.0013)):
        figure = figures.dynamics(profile, folder, ["eta_1"], grid)
        accuracy, _, kl = figure.axes
        assert [line.get_label() for line in accuracy.lines] == [
            "Policy Split, eta 1.0",
            "Policy Split, eta 1.0, HE mode",
        ]
        figures.plt.close(figure)
        assert kl.lines[0].get_ydata()[0] == pytest.approx(first)
    (folder / "runs" / "eta_1-0.2m-s9").rename(folder / "runs" / "eta_1-0.2m-s3")


def test_derivations_are_read_from_responses_or_from_what_was_published_of_them(tmp_path):
    profile, folder = evidence.write(tmp_path)
    path = folder / "runs" / "policy_split-0.2m-s2" / "evaluation.csv"
    table = pd.read_csv(path)
    table.loc[
        (table.suite == "long") & (table["mode"] == "he") & (table.index % 4 == 0), "derivation"
    ] = "pairs"
    table.to_csv(path, index=False)
    whole = analyses.derivations(profile, folder)
    row = (
        whole[(whole.method == "policy_split") & (whole.seed == 2)]
        .set_index(["suite", "mode"])
        .loc[("long", "he")]
    )
    assert (row.steps, row.pairs, row.glance, row.accuracy) == (0.75, 0.25, 0, 0.75)
    for path in folder.glob("runs/*/evaluation.csv"):
        table = pd.read_csv(path)
        evaluate.derivations(table).to_csv(path.with_name("derivations.csv"), index=False)
        evaluate.condensed(table).to_csv(path, index=False)
    pd.testing.assert_frame_equal(
        analyses.derivations(profile, folder)[whole.columns], whole, check_like=True
    )


def test_base_models_with_one_run_each_are_seeds_of_one_row(tmp_path):
    profile = runs.load_profile("bases")
    for which, accuracy in (("", 50), (".b1", 60), (".b3", 64)):
        run = tmp_path / "runs" / f"grpo-0.2m{which}-s1"
        run.mkdir(parents=True)
        evidence.evaluation(0, 0, {"normal": (accuracy, 0.4)}, 0).to_csv(
            run / "evaluation.csv", index=False
        )
        pd.DataFrame({"step": [1], "accuracy_normal": 0.5, "entropy_bits_normal": 0.4}).to_csv(
            run / "metrics.csv", index=False
        )
    table = tables.table1(profile, tmp_path).set_index("label")
    assert (
        set(table["size"]) == {"0.2m"}
        and table.seeds["GRPO"] == 3
        and table.average_acc["GRPO"] == pytest.approx(58)
    )
    assert table.runs["GRPO"] == "grpo-0.2m-s1 grpo-0.2m.b1-s1 grpo-0.2m.b3-s1"
    assert analyses.dynamics(profile, tmp_path)[["size", "seed"]].to_numpy().tolist() == [
        ["0.2m", 0],
        ["0.2m", 1],
        ["0.2m", 3],
    ]


def test_how_far_the_modes_part_is_told_over_base_models_of_both_worlds(tmp_path):
    evidence.write_parting(tmp_path, split=[0.03, 0.05], unheeded=[0.001, 0.002, 0.003])
    table = tables.parting(runs.load_profile("nano"), tmp_path / "nano").set_index("profile")
    assert (
        table.base_models.to_dict() == {"split": 2, "unheeded": 3}
        and (table.kl_start == 0.0005).all()
    )
    assert table.kl_end.to_list() == pytest.approx([0.04, 0.002]) and table.kl_end_ci[
        "unheeded"
    ] == pytest.approx(4.3027 * 0.001 / 3**0.5, rel=1e-4)
    assert table.least["split"] == 0.03 and table.most["unheeded"] == 0.003
    assert table.parted.to_dict() == {"split": 1, "unheeded": 0}  # beyond 0.03, not at it
    assert (
        math.isnan(table.p["split"]) and table.p["unheeded"] == 2 / 10
    )  # of the ten ways to choose two of five ranks
    assert table.distance.isna().all()  # no one asked what they do
    for which, moved in ((0, 0.1), (1, 0.3)):
        prompts = evidence.prompts_of("grpo", 1)
        prompts.loc[prompts.prompt == "trained", ["share_steps", "share_halves"]] = [
            0.2 + moved,
            0.6 - moved,
        ]
        prompts.to_csv(
            tmp_path
            / "split"
            / "runs"
            / f"policy_split-0.2m{f'.b{which}' if which else ''}-s1"
            / "prompts.csv",
            index=False,
        )
    table = tables.parting(runs.load_profile("nano"), tmp_path / "nano").set_index("profile")
    assert (
        table.distance["split"] == pytest.approx(0.2)
        and 0 < table.chance["split"] < 0.1
        and math.isnan(table.distance["unheeded"])
    )
    assert table.what.to_dict() == {
        "split": "eq. 3 with eta 2",
        "unheeded": analyses.written()["parting"][-1]["what"],
    }


def test_parting_is_paired_where_profiles_share_their_base_models_and_says_by_which_test(tmp_path):
    evidence.write_parting(
        tmp_path,
        split=[0.03, 0.05, 0.06],
        unrewarded=[0.002, 0.06, 0.001],
        unheeded=[0.002, 0.055, 0.001],
    )
    table = tables.parting(runs.load_profile("nano"), tmp_path / "nano").set_index("profile")
    # 0.028, -0.01 and 0.059 sum to 0.077: all signs alike, or the second turned, are as large: 4 of
    # 8
    assert (
        table.p["unrewarded"] == 4 / 8
        and table.test["unrewarded"] == "sign flip, paired by base model (least p 0.25)"
    )
    # the ranks 1, 2 and 5 of six: of the 20 ways to choose three, four sum to at most 8 and as many
    # to at least 13
    assert table.p["unheeded"] == pytest.approx(8 / 20)
    assert (
        table.test["unheeded"] == "Mann-Whitney, other base models (least p 0.1)"
        and table.test["split"] == ""
    )


def test_a_run_that_is_missing_in_one_profile_is_no_pair(tmp_path):
    evidence.write_parting(tmp_path, split=[0.03, 0.05, 0.06], unrewarded=[0.002, 0.004])
    table = tables.parting(runs.load_profile("nano"), tmp_path / "nano").set_index("profile")
    assert table.p["unrewarded"] == 2 / 4 and "least p 0.5" in table.test["unrewarded"]


SEEDS, SAMPLING = (
    "seeds of one base model",
    "sampling seeds of one base model",
)  # of a model that is not trained


@pytest.mark.parametrize(
    "name",
    [
        "table1_general",
        "table1_effects",
        "derivations",
        "table2_creative",
        "ablations",
        "dynamics",
        "learning",
        "best_of_n",
        "solved_by_one",
        "behaviour",
        "prompt_generalization",
        "cost",
        "checks",
        "worlds",
    ],
)
def test_a_table_says_what_its_intervals_are_over(found, name):
    table = artefacts.table(found[0], name, found[1])
    parts = artefacts.parts_of(name, table).values()
    assert parts and all("replicates" in part for part in parts)
    untrained = (
        table.label.str.startswith("Original")
        if "label" in table
        else pd.Series(False, table.index)
    )
    assert set(table[untrained].replicates) <= {SAMPLING}
    assert set(table[~untrained].replicates) <= {
        SEEDS,
        "pairs of steps on one machine",
    } and len(table[~untrained])


def test_base_models_with_a_run_each_are_what_intervals_of_their_profile_are_over(tmp_path):
    evidence.write_parting(tmp_path, split=[0.03, 0.05])
    profile, folder = runs.load_profile("split"), tmp_path / "split"
    assert set(tables.table1(profile, folder).replicates) == {"base models"}
    assert set(artefacts.table(profile, "dynamics", folder).replicates) == {"base models"}


def test_worlds_pair_by_base_model_and_leave_out_what_was_not_run(tmp_path):
    profile, folder = evidence.write(tmp_path / "nano")
    table = tables.worlds(profile, folder).set_index("difference")
    assert set(table.world) == {"nano"} and (table.pairs == 3).all()
    assert table.points["Policy Split - GRPO"] == pytest.approx(5) and table.longer[
        "Policy Split - GRPO"
    ] == pytest.approx(5)
    assert table.bits["Policy Split + HE prompt - GRPO"] == pytest.approx(0.3)
    for name, size, accuracy in (
        ("grpo", "0.2m", 50),
        ("grpo", "0.2m.b1", 60),
        ("policy_split", "0.2m", 51),
        ("policy_split", "0.2m.b1", 63),
    ):
        run = tmp_path / "bases" / "runs" / f"{name}-{size}-s1"
        run.mkdir(parents=True)
        modes_of = {
            mode: (accuracy, 0.4) for mode in (("normal",) if name == "grpo" else ("normal", "he"))
        }
        evidence.evaluation(0, 0, modes_of, 0).to_csv(run / "evaluation.csv", index=False)
    row = (
        tables.worlds(profile, folder)
        .set_index(["world", "difference"])
        .loc[("bases", "Policy Split - GRPO")]
    )
    assert row.pairs == 2 and row.points == pytest.approx(2)  # 51 - 50 and 63 - 60
    assert row.replicates == "base models"
