"""Departures: where the released code computes something else than the paper says, each as a table
of numbers. The released form is this project's own: a variant of `advantages.VARIANTS`, a row of
`methods.ABLATIONS`, a mode rendered in one turn, or a line of arithmetic here.
"""

import re
from itertools import permutations, product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown

from pslib import advantages, methods, modes, rewards
from pslib.evidence import tables
from pslib.evidence.figures import STYLE, WIDTH
from pslib.study import explore, lessons

CLIPPED = ("paper", "clip_order", "doubled", "released")  # the variants with a clip


def measured(results, *parts):
    """The rows of an ablation table whose label holds one of `parts`, as Markdown."""
    path = results / "tables" / "ablations.csv"
    if not path.exists():
        return Markdown(f"*Measured effect: none yet. The ablation table (`{path}`) is not there.*")
    table = pd.read_csv(path)
    found = table[[any(part in label for part in parts) for label in table.label]]
    if found.empty:
        said = f"*Measured effect: none. The ablation table has no row of {' or '.join(parts)}.*"
        return Markdown(said)
    found = tables.shown(found).drop(columns="variant", errors="ignore")
    text = tables.unbroken(found.to_markdown(index=False, floatfmt=".3f"))
    return Markdown(f"*Measured effect, ours:*\n\n{text}")


# --- 1, 2: the order of clip and eta; the bonus added twice ---------------------------------------
def _tilted(bonuses, eta, kappa, variant):
    """A~ of tokens of given B, where A = 1."""
    adv, bonus = torch.ones(1, dtype=torch.float64), torch.tensor([bonuses], dtype=torch.float64)
    return advantages.high_entropy(adv, bonus, eta, kappa, variant)[0]


def token_bonus(bonuses, eta, kappa):
    """What each variant adds to A = 1 for tokens of given B; a row a B."""
    table = pd.DataFrame(index=pd.Index(bonuses, name="B"))
    for name in advantages.VARIANTS:
        table[name] = (_tilted(bonuses, eta, kappa, name) - 1).numpy()
    return table.assign(**{"clip_order / paper": table.clip_order / table.paper})


@plt.rc_context(STYLE)
def clip_orders(eta, kappa, bonuses=()):
    """What eq. 3 and the released code add to A, as shares of |A|, with a mark where each clip
    begins; bonuses: B / |A| of tokens, as ticks below.
    """
    figure, axis = plt.subplots(figsize=(0.86 * WIDTH, 3.7))
    grid = torch.logspace(-1.5, 2, 200, dtype=torch.float64).tolist()
    for variant, begins, formula, place, side in (
        ("paper", 1 / kappa, "eq. 3: η clip(B, ±|A|/κ)", (4, -28), "left"),
        ("released", 1 / (kappa * eta), "released: 2 clip(ηB, ±|A|/κ)", (0, 9), "right"),
    ):
        colour, line, _ = lessons.LINES[variant]
        most = _tilted([begins], eta, kappa, variant).item() - 1
        added = _tilted(grid, eta, kappa, variant) - 1
        axis.plot(grid, added, line, color=colour, lw=2.2, label=formula)
        axis.plot(begins, most, "o", color=colour, ms=8)
        said = f"clip from B = {begins:.3g} |A| on:\nat most {most:.3g} |A|"
        axis.annotate(said, (begins, most), place, textcoords="offset points", ha=side)
    axis.plot(bonuses, [1.2e-3] * len(bonuses), "|", color="#3d3d3d", ms=9, alpha=0.25)
    axis.set(xscale="log", yscale="log", xlim=(grid[0], grid[-1]), ylim=(1e-3, 4))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("B / |A|: how surprising the token is (logarithmic)")
    axis.set_ylabel("added to A, as a share of |A| (logarithmic)")
    axis.legend(loc="upper left")
    return figure


def spans(etas, kappa):
    """The least and the greatest A~/A that any B can give; a row an eta."""

    def span(eta, variant):
        low, high = _tilted([-1e9, 1e9], eta, kappa, variant).tolist()
        return f"{low:.3f} to {high:.3f}"

    rows = [{variant: span(eta, variant) for variant in CLIPPED} for eta in etas]
    return pd.DataFrame(rows, index=pd.Index(etas, name="eta"))


def added_twice(adv, tilted):
    """The first tokens' advantages after the bonus is added in place to `advantages` and to
    `returns`, which are tensors of their own or two names of one; adv A (N,), tilted A~ (N, T).
    """
    bonus, rows = tilted - adv[:, None], {}
    for name, shared in (("two tensors", False), ("two names of one tensor", True)):
        held = adv[:, None].expand_as(tilted).clone()
        returns = held if shared else held.clone()
        held += bonus
        returns += bonus
        rows[name] = held[:, 0].tolist()
    columns = [f"response {k}" for k in range(len(adv))]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def beyond_bounds(scored, eta, kappa, alpha=0.5):
    """Tokens where A~ has the other sign than A, and bonuses of dead groups; a row a variant."""
    adv = advantages.group_relative(scored.rewards, scored.group_ids)
    signal = advantages.exploration_signal(scored.logp["he"], scored.logp["normal"], alpha)
    bonus = advantages.standardize_in_group(signal, scored.mask, scored.group_ids)
    live, dead = (adv != 0)[:, None] & scored.mask, (adv == 0)[:, None] & scored.mask
    rows = {}
    for variant in advantages.VARIANTS:
        tilted = advantages.high_entropy(adv, bonus, eta, kappa, variant)
        rows[variant] = {
            "tokens of live groups": int(live.sum()),
            "of them with the sign flipped": int((live & (tilted * adv[:, None] < 0)).sum()),
            "tokens of dead groups": int(dead.sum()),
            "of them with a bonus": int((dead & (tilted != 0)).sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


# --- 3, 4: what the other mode's responses are trained under --------------------------------------
def prompt_distance(model, tokenizer, mode, questions, rollouts):
    """KL in nats a token over the full vocabulary from a mode's own prompt to the re-wrapped one,
    and to no system prompt at all, on the responses that the other mode drew.
    """
    shared = [k for k, drawn_in in enumerate(rollouts.modes) if drawn_in != mode.name]
    tokens, lengths = rollouts.tokens, rollouts.lengths
    others = {"re-wrapped": modes.one_turn(mode), "no system prompt": modes.NORMAL}
    total, count = dict.fromkeys(others, 0.0), int(lengths[shared].sum())
    for k, (name, other) in product(shared, others.items()):
        asked = questions[int(rollouts.group_ids[k])]["question"]
        own, prompt = (modes.render(tokenizer, each, asked) for each in (mode, other))
        kl = explore.kl_by_token(model, own, prompt, tokens[k : k + 1], lengths[k : k + 1])
        total[name] += float(kl.sum())
    column = {name: kl / count for name, kl in total.items()}
    table = pd.DataFrame({"KL from the high-entropy prompt, nats a token": column, "tokens": count})
    return table.rename_axis("prompt")


def round_trip(tokenizer, rollouts, stops):
    """How many responses differ when they are decoded and tokenised again."""
    counts = {"responses": len(rollouts.modes), "end token lost": 0, "other tokens changed": 0}
    for ids, length in zip(rollouts.tokens.tolist(), rollouts.lengths.tolist(), strict=True):
        ids = ids[:length]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        kept = ids[:-1] if ids[-1] in stops else ids
        counts["end token lost"] += len(kept) < length and again[-1:] != ids[-1:]
        counts["other tokens changed"] += again != kept
    return pd.Series(counts)


def tokens_learned(rollouts, stops):
    """Tokens that each mode learns from, with shared end tokens and without."""
    parts = []
    for label, name in (("with", "policy_split"), ("lost", "policy_split_lost_end")):
        terms = lessons.terms(rollouts, methods.get(name), stops)
        sums = terms.groupby(["trained under", "drawn in"], sort=False)["tokens learned from"].sum()
        parts.append(sums.rename(f"end tokens {label}"))
    table = pd.concat(parts, axis=1)
    return table.assign(fewer=table.iloc[:, 0] - table.iloc[:, 1])


# --- 5, 6: the normal mode's bonus; whose log-probs are old ---------------------------------------
def normal_bonus(scored, coefficients):
    """The normal mode's advantage (R, T) by its own coefficient, eta', for a table."""
    out = {}
    for value in coefficients:
        method = methods.get("policy_split", eta_normal=value)
        adv = method.advantage["normal"](scored, method.coefficients)
        out[f"A at η' = {value:g}"] = adv.expand(scored.mask.shape)
    return out


def ratios(rollouts, logp, eps=0.2):
    """exp(log-prob under the training mode - log-prob under the mode that drew the token), on
    shared responses: what a correction for who sampled would multiply by at the first update.
    """
    rows = {}
    for trained, drawn in permutations(logp, 2):
        own = rollouts.mask & torch.tensor([name == drawn for name in rollouts.modes])[:, None]
        ratio = pd.Series((logp[trained] - logp[drawn])[own].double().exp().tolist())
        rows[trained, drawn] = {
            "tokens": len(ratio),
            "mean": ratio.mean(),
            "least": ratio.min(),
            "greatest": ratio.max(),
            f"share beyond 1 ± {eps:g}": ((ratio - 1).abs() > eps).mean(),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").astype({"tokens": int})
    return table.rename_axis(["trained under", "drawn in"])


# --- 7: ddof and epsilon --------------------------------------------------------------------------
def normalisers(group_size):
    """A right response's advantage by how many of G are right, with ddof 1 or 0 and by eps."""
    rows, ids = {}, torch.zeros(group_size, dtype=torch.long)
    for right in range(1, group_size):
        outcome = (torch.arange(group_size) < right).double()
        exact, verl, trl = (
            advantages.group_relative(outcome, ids, eps)[0].item() for eps in (0.0, 1e-6, 1e-4)
        )
        plain = ((1 - outcome.mean()) / outcome.std(correction=0)).item()
        rows[right] = {
            "ddof 1, eps 1e-6": verl,
            "ddof 0": plain,
            "ddof 1 / ddof 0": exact / plain,
            "eps 1e-6 takes": 1 - verl / exact,
            "eps 1e-4 takes": 1 - trl / exact,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("right")


def equal_rewards(reward, group_size):
    """The largest |A| of equal rewards in float32: by the formula as it stands, and here."""
    same = torch.full((group_size,), reward)
    formula = (same - same.mean()) / (same.std() + 1e-6)
    here = advantages.group_relative(same, torch.zeros(group_size, dtype=torch.long))
    largest = {"by the formula": formula.abs().max().item(), "here": here.abs().max().item()}
    return pd.Series(largest, name="largest |A|")


# --- 8: figure 1c ---------------------------------------------------------------------------------
def figure_1c():
    """Figure 1c, read off the plot (reported), by its legend and with it swapped."""
    found = tables.reported_figure_1c().set_index("step")
    circles, squares = found.entropy_bits_he, found.entropy_bits_normal
    return pd.DataFrame(
        {
            "circles (legend: normal)": circles,
            "squares (legend: HE)": squares,
            "HE - normal by the legend": squares - circles,
            "HE - normal, swapped": circles - squares,
            "inter-mode KL": found.kl_he_from_normal,
        }
    ).round(3)


def table_1_gap(profiles):
    """HE minus normal in average entropy, bits: table 1's models and committed profiles."""
    parts = [tables.reported_table1().assign(source="reported, table 1", model=lambda t: t["size"])]
    for profile in profiles:
        path = profile.results("committed") / "tables" / "table1_general.csv"
        ours = pd.read_csv(path).assign(source=f"ours, {profile.name}")
        parts.append(ours.assign(model=ours["size"].map(profile.origin.label)))
    columns = {"Policy Split": "normal", "Policy Split + HE prompt": "HE"}
    found = pd.concat(parts).replace({"label": columns})
    keys = ["model", "source"]
    normal, he = (
        found[found.label == mode].set_index(keys).average_ent for mode in columns.values()
    )
    table = pd.DataFrame({"normal": normal, "HE": he, "HE - normal": he - normal})
    return table.reindex(normal.index).round(3).reset_index()


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
    """Responses graded by the rule of the released grader, as far as it can be told here
    (`</think>` and `\\boxed{` must be there; the last match of a greedy pattern within a line), and
    by `rewards.grade`.
    """
    rows = []
    for text in responses:
        found = re.findall(r"\\boxed\{(.*)\}", text) if "</think>" in text else []
        theirs, ours = found[-1] if found else "nothing", rewards.boxed(text) or "nothing"
        graded = int(theirs.strip() == answer), int(rewards.grade(text, answer))
        rows.append(
            (text.replace("\n", "⏎"), theirs, graded[0], ours.replace("\n", "⏎"), graded[1])
        )
    columns = ["response", "its rule reads", "its rule", "here reads", "here"]
    return pd.DataFrame(rows, columns=columns)
