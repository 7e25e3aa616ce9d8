"""Checks that transformers loads an exported folder completely and computes what the original folder computes.

    python tests/oracle/check_export.py ORIGINAL_HF_DIR EXPORTED_HF_DIR [TOLERANCE]

Prints the largest difference of the logits on random tokens; exit code 1 when it exceeds TOLERANCE (default 1e-5) or when
a tensor is missing, unexpected or misshaped.
"""
import sys

import torch
from transformers import AutoModelForCausalLM


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    if problems:
        sys.exit(f"{folder}: {problems}")
    return model.eval()


def main():
    original, exported = load(sys.argv[1]), load(sys.argv[2])
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-5
    tokens = torch.randint(0, original.config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (original(tokens).logits - exported(tokens).logits).abs().max().item()
    print(f"largest difference of the logits: {difference:.3g}")
    sys.exit(0 if difference <= tolerance else 1)


if __name__ == "__main__":
    main()
