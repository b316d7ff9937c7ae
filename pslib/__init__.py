"""Policy Split (arXiv 2604.11510) in small: one room per idea, read in the order in which data
walks through them.

    question -> modes -> rollouts -> rewards -> sharing -> policy (log-prob, entropy) -> advantages
    -> losses -> update

The method is in `methods` (a table), the loop in `train`, the mathematics in `advantages` and
`losses`. Three shelves stand
beside it: `evidence` (results to tables, figures, verdicts), `study` (what the teaching notebooks
show), `scale` (the method's way to larger models).

Shape letters, the same everywhere:

    R  responses in a step          G  responses to one question (group size)
    N  rows: a response under one mode; rows that are trained are responses x training modes
    T  response tokens (padded)     L  prompt and response tokens (padded)
    V  vocabulary

Masks are bool (N, T) and come from lengths, never from pad ids. Entropies and log-probs are in nats
unless a name ends in `_bits`.
"""

__version__ = "0.1.0"
