"""One question, four responses, and every number of a step worked out by hand.

The inputs are those of pslib/study/example.py, which the notebooks show; what must come of them
stands here, and none of it was computed with the library. Rows 0 and 1 were drawn in the normal
mode, rows 2 and 3 in the high-entropy mode; rows have 2, 3, 1 and 2 tokens, so T = 3 and 8 tokens
are valid. What stands beyond a row's length is marked PAD: tests put whatever they like there.
"""

from pslib.study import example

PAD = None
LENGTHS = example.ROLLOUTS.lengths.tolist()
TOKENS = 8
GROUP_IDS = example.ROLLOUTS.group_ids.tolist()
EPS = 1e-6


def cut(rows):
    """A tensor (4, 3) as lists, with PAD beyond each row's length."""
    return [
        [value if t < length else PAD for t, value in enumerate(row)]
        for row, length in zip(rows.tolist(), LENGTHS, strict=True)
    ]


# --- eq. 10: which tokens each mode learns from, a row a response under a training mode, the normal
# with sharing, all of them; without, what the mode drew; where the end token of a shared response
# is lost, one less there
SHARED = [2, 3, 1, 2, 2, 3, 1, 2]
UNSHARED = [2, 3, 0, 0, 0, 0, 1, 2]
LOST_END = [2, 3, 0, 1, 1, 2, 1, 2]

# --- eq. 2: A = (r - mean) / (std + eps) ----------------------------------------------------------
# r = 1, 0, 0, 1: mean = 1/2, deviations +-1/2; variance with ddof 1 = 4 (1/4) / 3 = 1/3, std =
# 0.577350269190 a = 0.5 / (0.577350269190 + 0.000001) = 0.866023903787
REWARDS = example.REWARDS.tolist()
A = 0.866023903787
ADVANTAGES = [A, -A, -A, A]

# --- log-probs of the sampled tokens under both modes, before the update, in nats -----------------
LOGP_HE, LOGP_NORMAL = cut(example.LOGP["he"]), cut(example.LOGP["normal"])
# HE:     -1.0 -0.2 | -0.1 -0.9 -0.6 | -0.4 | -0.5 -0.4
# normal: -2.0 -0.8 | -0.3 -0.5 -0.6 | -0.2 | -0.3 -0.8

# --- eq. 6: b = -alpha log pi_HE - (1 - alpha) log pi ---------------------------------------------
# alpha = 1/2: (1 + 2)/2 = 1.5, (0.2 + 0.8)/2 = 0.5, (0.1 + 0.3)/2 = 0.2, and so on
SIGNAL = [[1.5, 0.5, PAD], [0.2, 0.7, 0.6], [0.3, PAD, PAD], [0.4, 0.6, PAD]]
# alpha = 1/4, which tells the two modes apart: 0.25 + 1.5 = 1.75, 0.05 + 0.6 = 0.65, 0.025 + 0.225
# = 0.25, 0.225 + 0.375 = 0.6, 0.15 + 0.45 = 0.6, 0.1 + 0.15 = 0.25, 0.125 + 0.225 = 0.35, 0.1 + 0.6
# = 0.7
SIGNAL_QUARTER = [[1.75, 0.65, PAD], [0.25, 0.60, 0.60], [0.25, PAD, PAD], [0.35, 0.70, PAD]]

# --- eq. 4: B = (b - mean) / (std + eps) over the 8 tokens ----------------------------------------
# sum of b = 4.8, mean = 0.6; deviations 0.9, -0.1, -0.4, 0.1, 0, -0.3, -0.2, 0
# their squares: 0.81 + 0.01 + 0.16 + 0.01 + 0 + 0.09 + 0.04 + 0 = 1.12; 1.12 / 7 = 0.16; std = 0.4
# B = deviation / 0.400001: 2.25, -0.25, -1, 0.25, 0, -0.75, -0.5, 0 less 2.5 millionths of each; 0
# where padded
BONUS = [
    [2.249994375014, -0.249999375002, 0.0],
    [-0.999997500006, 0.249999375002, 0.0],
    [-0.749998125005, 0.0, 0.0],
    [-0.499998750003, 0.0, 0.0],
]

# --- eq. 3 at eta = 0.5, kappa = 2: the clip is at +-a/2 = +-0.433011951894 -----------------------
ETA, KAPPA = example.ETA, example.KAPPA
# "paper": A + eta clip(B, -a/2, a/2). Clipped are 2.25, -1, -0.75 and -0.5, which become +-a/2, so
# +-a/4 after eta:
#   row 0: a + a/4 = 1.25 a;   a - 0.25/2 = a - 0.124999687501
#   row 1: -a - a/4 = -1.25 a; -a + 0.124999687501;  -a + 0
#   row 2: -a - a/4 = -1.25 a
#   row 3: a - a/4 = 0.75 a;   a + 0
PAPER = [
    [1.082529879734, 0.741024216286, PAD],
    [-1.082529879734, -0.741024216286, -0.866023903787],
    [-1.082529879734, PAD, PAD],
    [0.649517927840, 0.866023903787, PAD],
]
# "released": A + 2 clip(eta B, -a/2, a/2). eta B = 1.125, -0.125, -0.5, 0.125, 0, -0.375, -0.25, 0
# (less the 2.5 millionths); only 1.125 and -0.5 are beyond +-a/2 and become +-a after the doubling:
#   row 0: a + a = 2 a;   a - 0.249999375002
#   row 1: -a - a = -2 a; -a + 0.249999375002;  -a + 0
#   row 2: -a - 2 (0.374999062502) = -a - 0.749998125005
#   row 3: a - 2 (0.249999375002) = a - 0.499998750003;  a + 0
RELEASED = [
    [1.732047807574, 0.616024528785, PAD],
    [-1.732047807574, -0.616024528785, -0.866023903787],
    [-1.616022028792, PAD, PAD],
    [0.366025153784, 0.866023903787, PAD],
]

# --- eq. 7, 8: -min(rho A, clip(rho, 0.8, 1.2) A), with ratios picked on both sides of the clip ---
RATIOS = cut(example.RATIOS)  # 1.5 0.5 | 1.5 0.5 1.1 | 0.9 | 1.0 1.25
# In multiples of the advantage's size: a gain is cut at 1.2 and kept when it shrinks; a loss is cut
# at 0.8 from below and kept when it grows.
#   row 0, A > 0: min(1.5, 1.2) = 1.2;   min(0.5, 0.8) = 0.5
#   row 1, A < 0: max(1.5, 1.2) = 1.5;   max(0.5, 0.8) = 0.8;   1.1
#   row 2, A < 0: 0.9
#   row 3, A > 0: 1.0;   min(1.25, 1.2) = 1.2
# The loss is minus the gain: minus for rows 0 and 3, plus for rows 1 and 2.
LOSS_NORMAL = [
    [-1.039228684544, -0.433011951894, PAD],
    [1.299035855681, 0.692819123030, 0.952626294166],
    [0.779421513408, PAD, PAD],
    [-0.866023903787, -1.039228684544, PAD],
]
# (-1.2 - 0.5 + 1.5 + 0.8 + 1.1 + 0.9 - 1.0 - 1.2) a = 0.4 a; over 8 tokens: 0.05 a
MEAN_NORMAL = 0.043301195189
# The same ratios with PAPER as advantages: -1.2 (1.0825...), -0.5 (0.7410...), 1.5 (1.0825...), 0.8
# (0.7410...), ...
LOSS_HE = [
    [-1.299035855681, -0.370512108143, PAD],
    [1.623794819601, 0.592819373029, 0.952626294166],
    [0.974276891760, PAD, PAD],
    [-0.649517927840, -1.039228684544, PAD],
]
# their sum is 0.785222802347; over 8 tokens:
MEAN_HE = 0.098152850293
# Policy Split's loss is one mean over the 16 tokens of both modes: (0.346409561515 +
# 0.785222802347) / 16
MEAN_BOTH = 0.070727022741


def padded(rows, fill):
    """The rows with `fill` in place of PAD."""
    return [[fill if value is PAD else value for value in row] for row in rows]
