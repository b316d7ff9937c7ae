"""Policy Split (arXiv 2604.11510) in small: one room per idea, read in the order in which data
walks through them.

    question -> modes -> rollouts -> rewards -> sharing -> policy (log-prob, entropy) -> advantages
    -> losses -> update

The method is in `methods` (a table), the loop in `train`, the mathematics in `advantages` and
`losses`. The same method on TRL's trainer is `trl`. Around these rooms stand five shelves:

    nano      the laptop world: texts and worlds, the base model, fast decoding
    tasks     questions: the nano world's suites, the paper's data sets
    lab       profiles, run folders, checkpoints, the chain's steps, export, command line
    evidence  evaluation, probes, statistics; tables, figures, claims and their verdicts
    study     the worked example, lessons, departures, explorer

Shape letters, the same everywhere:

    R  responses in a step          G  responses to one question (group size)
    N  rows: a response under one mode; rows that are trained are responses x training modes
    T  response tokens (padded)     L  prompt and response tokens (padded)
    V  vocabulary

Masks are bool (N, T) and come from lengths, never from pad ids. Entropies and log-probs are in nats
unless a name ends in `_bits`.
"""

__version__ = "0.1.0"
