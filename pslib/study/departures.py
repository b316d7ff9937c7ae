"""Departures: where the released code computes something else than the paper says, each as a table
of numbers.

The released form is always this project's own: a variant of `advantages.VARIANTS`, a row of
`methods.ABLATIONS`, a mode rendered in one turn, or a line of arithmetic here. No function trains
anything; what a departure does to training is read from the ablation table by `measured`.
"""

import re

import pandas as pd
import torch
from IPython.display import Markdown

from pslib import advantages, methods, modes, rewards
from pslib.evidence import tables
from pslib.lab import runs
from pslib.study import explore, lessons

CLIPPED = ("paper", "clip_order", "doubled", "released")  # the variants with a clip


def measured(*parts, path=None):
    """The rows of the ablation table whose label holds one of `parts`, or a sentence that there are
    none; Markdown.
    """
    path = path or runs.ROOT / "results" / "nano" / "tables" / "ablations.csv"
    if not path.exists():
        return Markdown(
            "*Measured effect: none yet. The ablation table (`results/nano/tables/ablations.csv`) "
            "is not there.*"
        )
    table = pd.read_csv(path)
    found = table[[any(part in label for part in parts) for label in table.label]]
    if found.empty:
        return Markdown(
            f"*Measured effect: none. The ablation table has no row of {' or '.join(parts)}.*"
        )
    found = tables.ablations_shown(found).drop(columns="variant") if "variant" in found else found
    return Markdown("*Measured effect, ours:*\n\n" + found.to_markdown(index=False, floatfmt=".3f"))


# --- 1, 2: the order of clip and eta; the bonus added twice ---------------------------------------
def token_bonus(bonuses, eta, kappa):
    """What is added to A for tokens of given B, as a share of |A|, where |A| = 1; a row a B, a
    column a variant.
    """
    adv, bonus = torch.ones(1, dtype=torch.float64), torch.tensor([bonuses], dtype=torch.float64)
    added = {
        variant: advantages.high_entropy(adv, bonus, eta, kappa, variant)[0] - 1
        for variant in advantages.VARIANTS
    }
    return pd.DataFrame(
        {variant: values.tolist() for variant, values in added.items()},
        index=pd.Index(bonuses, name="B"),
    ).assign(**{"clip_order / paper": (added["clip_order"] / added["paper"]).tolist()})


def spans(etas, kappa):
    """The least and the greatest A~/A that any B can give; a row an eta, a column a variant that
    has a clip.
    """
    adv, extreme = (
        torch.ones(1, dtype=torch.float64),
        torch.tensor([[-1e9, 1e9]], dtype=torch.float64),
    )
    rows = []
    for eta in etas:
        ends = {
            v: advantages.high_entropy(adv, extreme, eta, kappa, v)[0].tolist() for v in CLIPPED
        }
        rows.append({v: f"{low:.3f} to {high:.3f}" for v, (low, high) in ends.items()})
    return pd.DataFrame(rows, index=pd.Index(etas, name="eta"))


def added_twice(adv, tilted):
    """The first tokens' advantages after the bonus is added in place to `advantages` and to
    `returns`.

    adv A (N,), tilted A~ (N, T) -> a row for each way of keeping the two: as tensors of their own,
    and as two names of one.
    """
    start, bonus, rows = adv[:, None].expand_as(tilted), tilted - adv[:, None], {}
    for name, shared in (("two tensors", False), ("two names of one tensor", True)):
        held = start.clone()
        returns = held if shared else start.clone()
        held += bonus
        returns += bonus
        rows[name] = held[:, 0].tolist()
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=[f"response {k}" for k in range(len(adv))]
    )


def beyond_bounds(scored, eta, kappa, alpha=0.5):
    """Tokens at which a variant leaves what eq. 3 promises: A~ of the other sign than A, and
    bonuses of dead groups.
    """
    adv = advantages.group_relative(scored.rewards, scored.group_ids)
    bonus = advantages.standardize_in_group(
        advantages.exploration_signal(scored.logp["he"], scored.logp["normal"], alpha),
        scored.mask,
        scored.group_ids,
    )
    live, dead, rows = (adv != 0)[:, None] & scored.mask, (adv == 0)[:, None] & scored.mask, {}
    for variant in advantages.VARIANTS:
        tilted = advantages.high_entropy(adv, bonus, eta, kappa, variant)
        flipped, moved = live & (tilted * adv[:, None] < 0), dead & (tilted != 0)
        rows[variant] = {
            "tokens of live groups": live,
            "of them with the sign flipped": flipped,
            "tokens of dead groups": dead,
            "of them with a bonus": moved,
        }
    counts = {
        variant: {name: int(where.sum()) for name, where in row.items()}
        for variant, row in rows.items()
    }
    return pd.DataFrame.from_dict(counts, orient="index").rename_axis("variant")


# --- 3, 4: what the other mode's responses are trained under --------------------------------------
def one_turn(mode):
    """The mode as the released code renders it for the responses that the other mode drew."""
    return modes.Mode(mode.name, mode.system, one_turn=True)


def prompt_distance(model, tokenizer, mode, questions, rollouts):
    """How far the re-wrapped prompt's policy is from the mode's own, on the responses that the
    other mode drew.

    KL in nats a token over the full vocabulary, from the mode's own prompt to the other; beside the
    KL to no system prompt at all, which is the distance that makes the two modes.
    """
    shared = [k for k, drawn_in in enumerate(rollouts.modes) if drawn_in != mode.name]
    total = {"re-wrapped": 0.0, "no system prompt": 0.0}
    for k in shared:
        question = questions[int(rollouts.group_ids[k])]["question"]
        own = modes.render(tokenizer, mode, question)
        for name, other in (("re-wrapped", one_turn(mode)), ("no system prompt", modes.NORMAL)):
            total[name] += float(
                explore.kl_by_token(
                    model,
                    own,
                    modes.render(tokenizer, other, question),
                    rollouts.tokens[k : k + 1],
                    rollouts.lengths[k : k + 1],
                ).sum()
            )
    tokens = int(rollouts.lengths[shared].sum())
    return pd.DataFrame(
        {
            "KL from the high-entropy prompt, nats a token": {
                n: kl / tokens for n, kl in total.items()
            },
            "tokens": tokens,
        }
    ).rename_axis("prompt")


def round_trip(tokenizer, rollouts, stops):
    """What is left of the shared responses' ids when they are decoded without special tokens and
    tokenised again.
    """
    lost = changed = 0
    for ids, length in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True):
        ids = ids[:length]
        again = tokenizer(
            tokenizer.decode(ids, skip_special_tokens=True), add_special_tokens=False
        )["input_ids"]
        kept = ids[:-1] if ids[-1] in stops else ids
        lost, changed = (
            lost + (len(kept) < length and again[-1:] != ids[-1:]),
            changed + (again != kept),
        )
    return pd.Series(
        {"responses": len(rollouts.modes), "end token lost": lost, "other tokens changed": changed}
    )


def tokens_learned(rollouts, stops):
    """Tokens that each mode learns from, with the end tokens of shared responses and without; by
    who drew them.
    """
    parts = []
    for label, name in (("with", "policy_split"), ("lost", "policy_split_lost_end")):
        terms = lessons.terms(rollouts, methods.get(name), stops)
        sums = terms.groupby(["trained under", "drawn in"], sort=False)["tokens learned from"].sum()
        parts.append(sums.rename(f"end tokens {label}"))
    table = pd.concat(parts, axis=1)
    return table.assign(fewer=table.iloc[:, 0] - table.iloc[:, 1])


# --- 5, 6: the normal mode's bonus; whose log-probs are old ---------------------------------------
def normal_bonus(scored, coefficients):
    """The normal mode's advantage (R, T) at given values of its own coefficient, eta': {name:
    tensor} for a table.
    """
    found = [methods.get("policy_split", eta_normal=value) for value in coefficients]
    return {
        f"A at η' = {value:g}": each.advantage["normal"](scored, each.coefficients).expand(
            scored.mask.shape
        )
        for value, each in zip(coefficients, found, strict=True)
    }


def ratios(rollouts, logp, eps=0.2):
    """exp(log-prob under the training mode - log-prob under the mode that drew the token), on
    shared responses.

    What a correction for who sampled would multiply by, at the first update: without one the ratio
    is 1. A row a term.
    """
    rows = []
    for trained in logp:
        drawn = next(name for name in logp if name != trained)
        own = rollouts.mask & torch.tensor([name == drawn for name in rollouts.modes])[:, None]
        ratio = (logp[trained] - logp[drawn])[own].double().exp()
        rows.append(
            {
                "trained under": trained,
                "drawn in": drawn,
                "tokens": len(ratio),
                "mean": ratio.mean().item(),
                "least": ratio.min().item(),
                "greatest": ratio.max().item(),
                f"share beyond 1 ± {eps:g}": ((ratio - 1).abs() > eps).double().mean().item(),
            }
        )
    return pd.DataFrame(rows).set_index(["trained under", "drawn in"])


# --- 7: ddof and epsilon --------------------------------------------------------------------------
def normalisers(group_size):
    """The advantage of a right response among G, by how many are right: std with ddof 1 or 0, and
    what epsilon changes.
    """
    rows, ids = [], torch.zeros(group_size, dtype=torch.long)
    for right in range(1, group_size):
        outcome = (torch.arange(group_size) < right).double()
        exact, verl, trl = (
            advantages.group_relative(outcome, ids, eps)[0].item() for eps in (0.0, 1e-6, 1e-4)
        )
        plain = ((1 - outcome.mean()) / outcome.std(correction=0)).item()
        rows.append(
            {
                "right": right,
                "ddof 1, eps 1e-6": verl,
                "ddof 0": plain,
                "ddof 1 / ddof 0": exact / plain,
                "eps 1e-6 takes": 1 - verl / exact,
                "eps 1e-4 takes": 1 - trl / exact,
            }
        )
    return pd.DataFrame(rows).set_index("right")


def equal_rewards(reward, group_size):
    """The largest |A| of a group of equal rewards in float32: by the formula as it stands, and
    here.
    """
    same = torch.full((group_size,), reward)
    formula = (same - same.mean()) / (same.std() + 1e-6)
    here = advantages.group_relative(same, torch.zeros(group_size, dtype=torch.long))
    return pd.Series(
        {"by the formula": formula.abs().max().item(), "here": here.abs().max().item()},
        name="largest |A|",
    )


# --- 8: figure 1c ---------------------------------------------------------------------------------
def figure_1c():
    """Figure 1c, read off the plot (reported): both curves, and HE minus normal by its legend and
    with it swapped.
    """
    found = pd.read_csv(runs.ROOT / "results" / "paper" / "figure1c_dynamics.csv").set_index("step")
    circles, squares = found.circle_dark_blue_entropy, found.square_light_blue_entropy
    return pd.DataFrame(
        {
            "circles (legend: normal)": circles,
            "squares (legend: HE)": squares,
            "HE - normal by the legend": squares - circles,
            "HE - normal, swapped": circles - squares,
            "inter-mode KL": found.kl,
        }
    ).round(3)


def table_1_gap():
    """HE minus normal in average entropy, bits: of table 1's three models (reported) and of this
    project's runs (ours).
    """
    found = tables.reported_table1().pivot(index="size", columns="label", values="average_ent")
    rows = [
        {
            "model": size,
            "source": "reported, table 1",
            "normal": row["Policy Split"],
            "HE": row["Policy Split + HE prompt"],
        }
        for size, row in found.iterrows()
    ]
    for profile in ("quick", "split"):
        path = runs.ROOT / "results" / profile / "tables" / "table1_general.csv"
        for row in pd.read_csv(path).to_dict("records") if path.exists() else []:
            if row["label"] == "Policy Split":
                rows.append(
                    {
                        "model": f"nano {row['size']}",
                        "source": f"ours, {profile}",
                        "normal": row["average_ent"],
                    }
                )
            if row["label"] == "Policy Split + HE prompt":
                rows[-1]["HE"] = row["average_ent"]
    table = pd.DataFrame(rows)
    return table.assign(**{"HE - normal": table.HE - table.normal}).round(3)


# --- the grader -----------------------------------------------------------------------------------
RESPONSES = (  # right answer: 5
    "so it is 5. </think> \\boxed{5}",
    "</think> \\boxed{5} so \\boxed{5}",
    "</think> \\boxed{5}, as {2, 3} sum to it",
    "</think> \\boxed{6}, no: \\boxed{5}",
    "</think>\n\\boxed{6}\n\\boxed{5}",
    "</think> \\boxed{5\n}",
    "\\boxed{5}",
    "</think> 5",
    "</think> \\boxed{6}",
)


def graders(responses=RESPONSES, answer="5"):
    """Responses graded by the rule of the released grader, as far as it can be told here, and by
    `rewards.grade`.

    The rule: `</think>` and `\\boxed{` must be there, and the last match of a greedy pattern within
    a line is the answer.
    """
    rows = []
    for text in responses:
        found = re.findall(r"\\boxed\{(.*)\}", text) if "</think>" in text else []
        theirs, ours = found[-1] if found else "nothing", rewards.boxed(text) or "nothing"
        rows.append(
            {
                "response": text.replace("\n", "⏎"),
                "its rule reads": theirs,
                "its rule": int(theirs.strip() == answer),
                "here reads": ours.replace("\n", "⏎"),
                "here": int(rewards.grade(text, answer)),
            }
        )
    return pd.DataFrame(rows)
