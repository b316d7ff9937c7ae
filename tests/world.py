"""Trains a tiny model in whatever world of processes this one is part of, and writes down what it saw.

Called by tests, or started by torchrun: world.py <folder of the model> <folder to write to> <steps> <questions> <method>...
A setting of the run may stand among the methods, like micro_tokens=60, or dtype=float32, or grade=0 for no right answer at all.
Weights are sharded where ACCELERATE_USE_FSDP is true.
"""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file

from pslib import checkpoint, methods, modes, policy, rewards, rollouts, train

torch.set_num_threads(1)
POOL = [{"id": f"q{k}", "question": f"{k + 1}+8+6+1+2+{k + 3}{'+1' * (k % 3)}", "answer": "0"} for k in range(6)]
# Coefficients under which each method's own part acts on a batch this small
ACTING = {"clip_cov": {"ratio": 0.2, "lower": 0.0, "upper": 9.0}, "entropy_regularization": {"coef": 0.3},
          "policy_split": {"eta": 1.3}, "policy_split_released": {"eta": 0.7}}


def main(model, out, steps, questions, *given):
    """Train each method from the model for some steps; write metrics, weights and this process's share of the work."""
    chosen = {"micro_tokens": 100, "measure_every": 1, "dtype": "float64", "grade": 1}
    chosen |= {key: value if key == "dtype" else json.loads(value) for key, _, value in (g.partition("=") for g in given if "=" in g)}
    dtype, right = getattr(torch, chosen.pop("dtype")), chosen.pop("grade")
    rewards.grade = lambda text, answer: float(sum(map(ord, text)) % 2 * right)
    settings = train.Settings(steps=int(steps), questions=int(questions), group_size=4, pool=6, learning_rate=1e-3,
                              max_new_tokens=6, **{"save_every": int(steps), **chosen})
    for name in (g for g in given if "=" not in g):
        state = train.Run(*policy.load(model, dtype), methods.get(name, **ACTING.get(name, {})),
                          (modes.NORMAL, modes.Mode("he", "Think of something new.")), settings, seed=0)
        seen = {"processes": state.accelerator.num_processes, "sharded": state.sharded, "sampled": 0, "scored": 0, "forwards": 0,
                "layers": 0, "saved": 0, "recorded": 0, "metrics": [], "tokens": [],
                "dtypes": sorted({str(w.dtype) for m in (state.model, state.whole()) for w in m.parameters()})}
        engine, forward, save, step = (rollouts.DecoderEngine.generate, policy.Policy.forward, checkpoint.save, state.step)
        clip, gradients = state.accelerator.clip_grad_norm_, {}

        def generate(self, prompts, copies, *rest):
            seen["sampled"] += len(prompts) * copies
            return engine(self, prompts, copies, *rest)

        def score(self, packed, *rest):
            seen["scored"] += len(packed.owner)
            seen["forwards"] += 1
            return forward(self, packed, *rest)

        def layer(*given):
            seen["layers"] += 1

        for module in state.model.base_model.layers:
            module.self_attn.register_forward_pre_hook(layer)

        def saving(*given):
            seen["saved"] += 1
            save(*given)

        def recording(metrics, drawn):
            seen["recorded"] += 1

        def clipping(*given):
            for key, weight in state.policy.named_parameters():
                gradients.setdefault(key, checkpoint.whole(weight.grad).clone())
            return clip(*given)

        def noted(given):
            metrics, drawn = step(given)
            seen["metrics"].append({key: value for key, value in metrics.items() if "seconds" not in key})
            seen["tokens"].append(drawn.tokens.tolist())
            return metrics, drawn

        rollouts.DecoderEngine.generate, policy.Policy.forward, checkpoint.save, state.step = generate, score, saving, noted
        state.accelerator.clip_grad_norm_ = clipping
        train.run(state, POOL, Path(out) / name, recording)
        rollouts.DecoderEngine.generate, policy.Policy.forward, checkpoint.save = engine, forward, save
        rank = state.accelerator.process_index
        save_file({key: w.detach().clone() for key, w in state.whole().named_parameters()}, f"{out}/{name}-{rank}.safetensors")
        trained = state.trained()
        if rank == 0:
            save_file({key: w.detach().clone() for key, w in trained.named_parameters()},
                      f"{out}/{name}-trained.safetensors")
        save_file(gradients, f"{out}/{name}-{rank}-gradients.safetensors")
        Path(f"{out}/{name}-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
