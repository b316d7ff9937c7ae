"""A folder of made-up results of the nano profile: numbers chosen so that every mean and difference
is known by hand.

At size 0.2m and seeds 1 to 3. The seeds differ by `JITTER`, the same for every run, so that paired
differences do not vary but by what `spread` adds to the run at hand.
"""

import pandas as pd

from pslib import tasks
from pslib.evidence import evaluate, pretrained
from pslib.lab import runs

SEEDS = (1, 2, 3)
JITTER = {1: -2.0, 2: 0.0, 3: 2.0}
# run: accuracy in percent and bits of each mode, over 100 responses a suite
SUITES = {
    "original": {"normal": (60, 0.40)},
    "grpo": {"normal": (80, 0.30)},
    "policy_split": {"normal": (85, 0.50), "he": (75, 0.60)},
    "policy_split_released": {"normal": (80, 0.55), "he": (70, 0.65)},
    "eta_1": {"normal": (70, 0.70), "he": (60, 0.80)},
    "unshared": {"normal": (64, 0.70), "he": (62, 0.80)},
    "normal_plus": {"normal": (72, 0.70), "he": (60, 0.80)},
    "eta_0": {"normal": (90, 0.40), "he": (90, 0.40)},
}


def evaluation(accuracy, bits, modes_of, wobble):
    rows = []
    for mode, (accuracy, bits) in modes_of.items():
        right = round(accuracy + wobble)
        rows += [
            {
                "suite": suite,
                "mode": mode,
                "question_id": f"{suite}-{k}",
                "sample": 0,
                "correct": int(k < right),
                "tokens": 10,
                "entropy_bits": bits,
                "derivation": "steps",
            }
            for suite in tasks.TEST_SUITES
            for k in range(100)
        ]
    return pd.DataFrame(rows, columns=evaluate.COLUMNS)


def prompts_of(name, seed):
    """The normal mode's shares, then those under each prompt; Policy Split's modes are 0.3 apart,
    the others' 0.1.
    """
    apart = 0.3 if name.startswith("policy_split") else 0.1
    rows = [("none", 0.0, 0.6, 0.40, 0.0)] + [
        (prompt, kl, 0.6 - drop, 0.40 + more, apart)
        for prompt, kl, drop, more in (
            ("trained", 0.2 if apart == 0.3 else 0.001 * seed, 0.1, 0.05),
            ("high_entropy", 0.011, 0.1, 0.04),
            ("rewritten_high_entropy_short", 0.02, 0.0, 0.03),
            ("rewritten_high_entropy", 0.02, 0.0, 0.01),
            ("low_entropy_short", 0.02, 0.0, -0.001),
            ("low_entropy", 0.02, 0.0, -0.05),
        )
    ]
    return pd.DataFrame(
        [
            {
                "prompt": prompt,
                "accuracy": accuracy,
                "entropy_bits": bits + 0.001 * seed * (prompt != "none"),
                "tokens": 40.0,
                "kl_from_normal": kl,
                "share_steps": 0.2 + moved,
                "share_pairs": 0.1,
                "share_halves": 0.6 - moved,
                "share_glance": 0.1,
                "share_other": 0.0,
            }
            for prompt, kl, accuracy, bits, moved in rows
        ]
    )


def write(root):
    """Write the folder; -> (profile, folder)."""
    profile = runs.load_profile("nano")
    for name, modes_of in SUITES.items():
        for seed in SEEDS:
            folder = root / "runs" / runs.run_id(name, "0.2m", seed)
            folder.mkdir(parents=True)
            evaluation(0, 0, modes_of, JITTER[seed]).to_csv(folder / "evaluation.csv", index=False)
            if name == "original":
                metrics = None
            else:
                steps = [1, 2, 6, 11, 16, 21, 26, 31, 36, 41, 46]  # step 2 is not measured
                metrics = pd.DataFrame(
                    {
                        "step": steps,
                        "accuracy_normal": 0.5,
                        "entropy_bits_normal": [
                            None if step == 2 else 0.4 - 0.001 * step for step in steps
                        ],
                        "seconds_sample": 1.0 + seed,
                        "seconds_score": 0.5,
                        "seconds_update": 0.5,
                    }
                )
                if "he" in modes_of:
                    metrics["accuracy_he"], metrics["entropy_bits_he"] = (
                        0.4,
                        metrics.entropy_bits_normal + 0.01,
                    )
                    metrics["kl_he_from_normal"] = [
                        None if step == 2 else 0.001 * step + 0.0001 * seed for step in steps
                    ]
                    metrics["seconds_update"] = 2.0
                metrics.to_csv(folder / "metrics.csv", index=False)
            if name in profile.probe.methods:
                prompts_of(name, seed).to_csv(folder / "prompts.csv", index=False)
                # q1 is solved by both modes, q2 by the HE mode alone, q3 by none, q4 by the normal
                # mode alone
                counts = {"q1": (2, 1), "q2": (0, 4), "q3": (0, 0), "q4": (1, 0)}
                pd.DataFrame(
                    [
                        {
                            "suite": "like",
                            "mode": mode,
                            "question_id": q,
                            "samples": 4,
                            "correct": c[k],
                        }
                        for k, mode in enumerate(("normal", "he"))
                        for q, c in counts.items()
                    ]
                ).to_csv(folder / "best_of_n.csv", index=False)
                extra = 10.0 if name == "policy_split" else 0.0
                pd.DataFrame(
                    [
                        {
                            "mode": mode,
                            "prompt": prompt,
                            "div_2gram": 50.0 + seed + more,
                            "div_bleu4": 60.0 - seed,
                            "told": 1.0,
                            "entropy_bits": 0.5,
                            "tokens": 50.0,
                        }
                        for mode, more in (("normal", 0.0), ("he", extra))
                        for prompt in ("a", "b")
                    ]
                ).to_csv(folder / "stories.csv", index=False)
    base = root / "base" / "0.2m"
    base.mkdir(parents=True)
    pd.DataFrame(
        {
            "kind": ["plan", "plan", "sum"],
            "mode": "he",
            "advantage": [1.0, -1.0, 0.5],
            "bonus": [2.0, 1.0, -0.5],
            "paper": [0.015, 0.015, -0.0075],
            "released": [0.12, 0.06, -0.03],
        }
    ).to_csv(base / "bonus.csv", index=False)
    return profile, root


def write_parting(root, **worlds):
    """Write into the folders of profiles, as siblings in `root`, a run of Policy Split from each of
    some base models: the KL at its end.
    """
    for world, ends in worlds.items():
        for which, end in enumerate(ends):
            run = root / world / "runs" / f"policy_split-0.2m{f'.b{which}' if which else ''}-s1"
            run.mkdir(parents=True)
            pd.DataFrame(
                {
                    "step": [1, 6, 11, 16, 21, 26],
                    "accuracy_normal": 0.5,
                    "accuracy_he": 0.5,
                    "entropy_bits_normal": 0.4,
                    "entropy_bits_he": 0.4,
                    "kl_he_from_normal": [0.0005] + 5 * [end],
                }
            ).to_csv(run / "metrics.csv", index=False)
            evaluation(0, 0, {"normal": (80, 0.4), "he": (70 + which, 0.5)}, 0).to_csv(
                run / "evaluation.csv", index=False
            )


def write_prompts(folder):
    """Write prompts.csv into a folder: two questions of three responses each, the second with four
    times as many tokens, under three prompts; two seeds of sums, one of stories.
    """
    rows = []
    for task, seeds in (("sums", (1, 2)), ("stories", (1,))):
        for seed in seeds:
            for prompt, more in (("normal", 0.0), ("high_entropy", 0.5), ("unrelated", 0.2)):
                for question, tokens, bits in (("a", 10, 1.0), ("b", 40, 2.0)):
                    own = more * (1 if question == "a" else 2)
                    kl = tokens * more / 10
                    total = tokens * (bits + own)
                    row = (task, seed, prompt, question, 3, int(question == "a"), tokens, total, kl)
                    rows.append(row)
    columns = [*pretrained.KEYS, *pretrained.COUNTS]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "prompts.csv", index=False)
