"""Verdicts: what a claim's checks add up to, and that each check reads the difference that it
names.
"""

import math

import pandas as pd
import pytest

from pslib.evidence import analyses, stats, verdicts
from tests.support import evidence


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return evidence.write(tmp_path_factory.mktemp("evidence"))


def only(monkeypatch, **checks):
    """Let these claims have these checks, each its values and whether it stands beside, and no
    other claim any.
    """
    names = {id(facts): name for name, facts in verdicts.claims().items()}

    def tested(evidence, size, facts):
        for k, (values, beside) in enumerate(checks.get(names[id(facts)], ())):
            effect = stats.paired_effect(values, [0.0] * len(values))
            check = {"measure": "average_acc", "beside": beside}
            yield check, f"check {k} is above 0", effect, evidence.profile.replicates()

    monkeypatch.setattr(verdicts, "_tested", tested)


ABOVE, BELOW, NEITHER = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.1, 0.2]


@pytest.mark.parametrize("beside", [[], [ABOVE], [BELOW]])
@pytest.mark.parametrize(
    "checks, expected",
    [
        ([ABOVE, ABOVE], "confirmed"),
        ([ABOVE, NEITHER], "partly"),
        ([ABOVE, BELOW], "partly"),
        ([BELOW, NEITHER], "refuted"),
        ([NEITHER, NEITHER], "not separated"),
        ([], "not testable here"),
    ],
)
def test_a_claim_is_what_its_deciding_checks_add_up_to(
    found, monkeypatch, checks, beside, expected
):
    only(monkeypatch, C1=[(each, False) for each in checks] + [(each, True) for each in beside])
    table = verdicts.verdicts(*found).set_index("id")
    assert table.verdict["C1"] == expected and table.checks["C1"] == len(checks)
    assert (table.verdict.drop("C1") == "not testable here").all()


def test_a_check_that_holms_correction_takes_away_is_not_separated(found, monkeypatch):
    # alone p = .0206 (t = 6.86 with 2 degrees of freedom); of four such checks the smallest is
    # multiplied by 4
    only(monkeypatch, C2=[([1.0, 1.5, 0.8], False)], C3=4 * [([1.0, 1.5, 0.8], False)])
    table = verdicts.checks(*found).groupby("claim").first()
    assert table.p["C2"] == pytest.approx(table.p["C3"]) and table.p_holm["C3"] == pytest.approx(
        4 * table.p["C3"]
    )
    assert 0.0125 < table.p["C2"] < 0.05 and table.verdict.to_dict() == {
        "C2": "confirmed",
        "C3": "not separated",
    }
    sd = pd.Series(
        [1.0, 1.5, 0.8]
    ).std()  # what would be seen is told at the level of the smallest p of the family
    assert table.detectable.to_list() == pytest.approx(
        [stats.smallest_detectable(sd, 3), stats.smallest_detectable(sd, 3, alpha=0.0125)]
    )


def test_checks_beside_a_claim_are_a_family_of_their_own(found, monkeypatch):
    only(monkeypatch, C2=[([1.0, 1.5, 0.8], k > 0) for k in range(5)])
    table = verdicts.checks(*found)
    assert table.decides.tolist() == [True] + 4 * [False]
    assert table.verdict.tolist() == ["confirmed"] + 4 * ["not separated"]


@pytest.mark.parametrize(
    "four, eight, budget", [(90.0, 97.0, 8), (97.0, 98.5, 4), (98.5, 99.0, None)]
)
def test_c8_is_tested_with_as_many_tries_up_to_eight_as_leave_something_to_find(
    found, monkeypatch, four, eight, budget
):
    def best_of_n(profile, folder):
        return pd.DataFrame(
            [
                {
                    "size": "0.2m",
                    "method": method,
                    "seed": seed,
                    "sampling": sampling,
                    "n": n,
                    "accuracy": solved + 0.1 * seed,
                }
                for method in ("grpo", "policy_split")
                for seed in (1, 2, 3)
                for sampling in ("normal", "he", "both")
                for n, solved in ((2, 80.0), (4, four), (8, eight))
            ]
        )

    monkeypatch.setattr(verdicts.analyses, "best_of_n", best_of_n)
    table = verdicts.checks(*found).query("claim == 'C8'")
    assert table.check[~table.decides].tolist() == [
        "one response of each mode above two of the normal mode"
    ]
    assert table.check[table.decides].tolist() == (
        []
        if budget is None
        else [
            f"best of {budget} of both modes above {budget} of the normal mode",
            f"best of {budget} of the HE mode above {budget} of the normal mode",
            f"best of {budget} of both modes above GRPO's best of {budget}",
        ]
    )


def test_c10_reads_the_benchmark_where_its_size_was_measured(found, monkeypatch, tmp_path):
    monkeypatch.setattr(verdicts.runs, "ROOT", tmp_path)
    assert not verdicts.checks(*found).query("claim == 'C10'").decides.any()
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    (tmp_path / "results" / "benchmarks" / "a-cpu-2-cores.csv").write_text(
        'case,ratio,ratio_min,ratio_max\n"Policy Split step against GRPO step, 0.2M",1.7,1.5,1.9\n'
    )
    row = verdicts.checks(*found).query("claim == 'C10' and decides").iloc[0]
    assert (row["mean"], row.low, row.high) == pytest.approx(
        (-0.3, -0.5, -0.1)
    )  # 1.4 less 1.7, 1.9 and 1.5
    assert row.verdict == "refuted" and row.replicates == "pairs of steps on one machine"
    assert math.isnan(row.p) and math.isnan(
        row.p_holm
    )  # the file has the range of the pairs, from which no p follows
    text = verdicts.verdicts(*found).set_index("id").measured["C10"]
    assert "over pairs of steps on one machine: -0.30 ± 0.20 (n = 7) at 0.2m" in text


@pytest.mark.parametrize(
    "low, high, told", [(1.2, 1.3, "confirmed"), (1.5, 1.9, "refuted"), (1.3, 1.5, "not separated")]
)
def test_no_p_of_c10_is_the_same_whatever_was_measured(
    found, monkeypatch, tmp_path, low, high, told
):
    monkeypatch.setattr(verdicts.runs, "ROOT", tmp_path)
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    (tmp_path / "results" / "benchmarks" / "a-cpu-2-cores.csv").write_text(
        'case,ratio,ratio_min,ratio_max\n"Policy Split step against GRPO step, '
        f'0.2M",{(low + high) / 2},{low},{high}\n'
    )
    row = verdicts.checks(*found).query("claim == 'C10' and decides").iloc[0]
    assert row.verdict == told and math.isnan(row.p)


def test_c1_is_tested_over_base_models_and_not_over_seeds_that_sample_one(tmp_path):
    profile, folder = evidence.write(tmp_path / "nano")
    assert (
        not verdicts.checks(profile, folder).claim.eq("C1").any()
    )  # each size's seeds ask one untrained model again
    for which, full in enumerate(
        (0.005, 0.006, 0.3)
    ):  # what the full prompt does depends on the base model
        run = tmp_path / "split" / "runs" / f"original-0.2m{f'.b{which}' if which else ''}-s1"
        run.mkdir(parents=True)
        evidence.evaluation(0, 0, {"normal": (60, 0.4)}, 0).to_csv(
            run / "evaluation.csv", index=False
        )
        prompts = evidence.prompts_of("original", which)
        prompts.loc[prompts.prompt == "high_entropy", "kl_from_normal"] = full
        prompts.to_csv(run / "prompts.csv", index=False)
    table = verdicts.checks(profile, folder).query("claim == 'C1'").set_index("check")
    assert (
        set(table.profile) == {"split"}
        and set(table.replicates) == {"base models"}
        and (table.seeds == 3).all()
    )
    assert table["mean"].round(6).to_dict() == {
        "0.03 less the KL under the shortened prompt": 0.029,
        "0.03 less the KL under the full prompt": round(0.03 - 0.311 / 3, 6),
    }
    assert table.verdict.to_list() == ["confirmed", "not separated"]


@pytest.fixture(scope="module")
def checked(found):
    return verdicts.checks(*found)


def means(checked, claim):
    return checked[checked.claim == claim].set_index("check")["mean"].round(6).to_dict()


def test_the_checks_read_the_differences_that_they_name(checked):
    c2, c3, c5 = (means(checked, claim) for claim in ("C2", "C3", "C5"))
    assert c2 == {
        "normal mode more accurate than Original": 25,
        "normal mode more accurate than GRPO": 5,
    }
    assert (
        c3["normal mode has more entropy than Original"] == 0.1
        and c3["HE mode has more entropy than GRPO"] == 0.3
    )
    assert (
        c3["HE mode has more entropy than the normal mode"] == 0.1
        and c3["HE mode is less accurate"] == -10
    )
    assert c5 == {
        "eta 0.03 more accurate than eta 0": -5,
        "eta 0.03 more accurate than eta 1": 15,
        "a positive bonus in the normal mode lowers its accuracy (eta 1)": 2,
        "eta 1 has more entropy than eta 0.03": 0.2,
    }
    assert means(checked, "C6") == {
        "sharing makes the normal mode more accurate (eta 1)": 6,
        "sharing makes the he mode more accurate (eta 1)": -2,
    }
    assert means(checked, "C4") == {
        "HE mode above GRPO under the same prompt, Div-2-gram": 10,
        "HE mode above GRPO under the same prompt, Div-BLEU-4": 0,
        "HE mode above the normal mode, Div-2-gram": 10,
        "HE mode above the normal mode, Div-BLEU-4": 0,
    }
    assert means(checked, "C7") == {
        "inter-mode KL grows in training": 0.035,
        "KL under the prompt larger than GRPO's": 0.198,
        "modes' derivations farther apart than GRPO's under the same prompt": 0.2,
    }
    assert means(checked, "C9") == {
        "a rewritten prompt (its first sentence) raises entropy": 0.032,
        "the trained prompt raises entropy": 0.052,
        "an unseen low-entropy prompt (its first sentence) lowers entropy by less than 0.02 "
        "bits": 0.021,
    }
    # (6.5 - k) / (4 - k) for seeds k = 1, 2, 3 counted from the last: 4.5/3, 5.5/4, 6.5/5
    step = "a step of these runs, other work beside them, takes at most 1.4 times GRPO's"
    assert means(checked, "C10")[step] == pytest.approx(
        1.4 - (4.5 / 3 + 5.5 / 4 + 6.5 / 5) / 3, abs=1e-6
    )


def test_c4_is_tested_in_the_world_that_tells_stories_where_that_was_run(tmp_path):
    profile, folder = evidence.write(tmp_path / "nano")
    stories = sorted(folder.glob("runs/policy_split*/stories.csv"))
    for path in stories:
        path.write_text(
            path.read_text().replace(",1.0,0.5,50.0", ",0.5,0.5,50.0")
        )  # half of the responses are no stories
    assert not verdicts.checks(profile, folder).claim.str.startswith("C4").any()
    evidence.write(tmp_path / "stories")
    table = verdicts.checks(profile, folder)
    told = table.claim.str.startswith("C4")
    assert set(table[told].profile) == {"stories"} and set(table[~told].profile) == {"nano"}


def test_a_claim_of_one_profile_is_tested_there_over_its_base_models_and_nowhere_else(tmp_path):
    profile, folder = evidence.write(tmp_path / "nano")
    assert not verdicts.checks(profile, folder).claim.str.endswith("eta 2").any()
    assert (
        verdicts.verdicts(profile, folder).set_index("id").verdict["C3 eta 2"]
        == "not testable here"
    )
    for which, more in (("", 0), (".b1", 1), (".b2", 5)):
        for name, modes_of in (
            ("original", {"normal": (60, 0.4)}),
            ("grpo", {"normal": (70, 0.3)}),
            ("policy_split", {"normal": (72 + more, 0.4), "he": (60, 0.5 + more / 100)}),
        ):
            run = tmp_path / "split" / "runs" / f"{name}-0.2m{which}-s1"
            run.mkdir(parents=True)
            evidence.evaluation(0, 0, modes_of, 0).to_csv(run / "evaluation.csv", index=False)
    table = verdicts.checks(profile, folder)
    table = table[table.claim.str.endswith("eta 2")].set_index("check")
    assert (
        set(table.profile) == {"split"}
        and set(table["size"]) == {"0.2m"}
        and (table.seeds == 3).all()
    )
    assert table["mean"]["normal mode more accurate than GRPO"] == pytest.approx(
        2 + (0 + 1 + 5) / 3
    )
    assert table["mean"]["HE mode has more entropy than the normal mode"] == pytest.approx(
        0.1 + 0.02
    )


def test_a_verdict_says_what_was_measured_and_why(tmp_path):
    profile, folder = evidence.write(tmp_path)
    (folder / "why.yaml").write_text("C7: because\n")
    table = verdicts.verdicts(profile, folder).set_index("id")
    assert table.why["C7"] == "because" and table.why["C8"] == ""
    # 0.032 -+ 0.001: the interval over three seeds is 4.303 * 0.001 / sqrt(3) wide on each side
    assert table.measured["C9"].startswith(
        "a rewritten prompt (its first sentence) raises entropy, bits, over seeds of one base "
        "model: "
        "+0.0320 ± 0.0025 (n = 3, detects 0.00"
    )
    assert table.measured["C9"].endswith("at 0.2m")


def test_every_claim_of_the_paper_has_a_row_and_checks_that_decide():
    claims = verdicts.claims()
    assert list(claims) == [
        *(f"C{k}" for k in range(1, 11)),
        *(f"C{k} released" for k in (2, 3, 4)),
        *(f"C{k} bases{form}" for form in ("", " released") for k in (2, 3)),
        *(f"C{k} eta 2" for k in (2, 3, 7, 8, 9)),
        *(f"C{k} understood" for k in (1, 2, 3, 4, 5, 7, 8, 9)),
        *(f"C{k} understood released" for k in (2, 3, 4, 7, 8, 9)),
    ]
    for facts in claims.values():
        checks = claims.get(facts.get("like"), facts)["checks"]
        assert any(not check.get("beside") for check in checks)
        assert all(analyses.unit_of(check["measure"]) for check in checks)


def test_a_claim_for_another_method_reads_that_methods_runs(checked):
    assert means(checked, "C3 released")["normal mode has more entropy than GRPO"] == 0.25
    assert means(checked, "C3")["normal mode has more entropy than GRPO"] == 0.2


def test_the_ten_claims_stand_by_world_each_verdict_with_its_reason():
    ids = ["C1", "C3", "C3 eta 2", "C3 understood", "C3 understood released"]
    said = ["partly", "refuted", "not separated", "refuted", "confirmed"]
    facts = {"claim": "it revives", "reported": "+0.4", "why": "So."}
    shown = verdicts.by_world(pd.DataFrame({"id": ids, "verdict": said}).assign(**facts))
    assert shown.claim.tolist() == ["C1: it revives", "C3: it revives"]
    assert shown.iloc[0, 2:].tolist() == ["**partly**. So.", "not tested", "not tested"]
    assert shown.iloc[1, 2:].tolist() == [f"**{v}**. So." for v in (said[1], *said[3:])]


def test_verdicts_stand_side_by_side_by_form():
    table = pd.DataFrame(
        {
            "id": ["C1", "C3", "C8", "C3 bases released", "C8 eta 2"],
            "verdict": ["partly", "refuted", "partly", "confirmed", "refuted"],
        }
    )
    shown = verdicts.by_form(table).set_index("claim")
    assert shown.index.tolist() == ["C3", "C8"] and shown.columns.tolist() == list(
        analyses.written()["forms"].values()
    )  # C1 has one form only
    assert shown.loc["C3"].tolist() == ["refuted", "", "", "confirmed", ""] and shown.loc[
        "C8"
    ].tolist() == ["partly", "", "", "", "refuted"]
