"""Checks that transformers, from the export of a checkpoint, computes the logits that strata computes from the checkpoint itself.

    python tests/oracle/check_logits.py STRATA_PROGRAM CHECKPOINT_DIR [TOLERANCE]

Prints the largest difference on random tokens; exit code 1 when it exceeds TOLERANCE (default 1e-4). Needs torch, transformers.
"""
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    strata, checkpoint = sys.argv[1], sys.argv[2]
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-4
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([strata, "model", "export", checkpoint, f"{folder}/hf", "--dtype", "f32"], check=True)
        model = AutoModelForCausalLM.from_pretrained(f"{folder}/hf", dtype=torch.float32, attn_implementation="eager").eval()
        length = min(model.config.max_position_embeddings, 77)
        tokens = torch.randint(0, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(0))
        ids = ",".join(str(t) for t in tokens.tolist())
        subprocess.run([strata, "generate", checkpoint, "--prompt-ids", ids, "--logits", f"{folder}/logits.safetensors"], check=True)
        ours = load_file(f"{folder}/logits.safetensors")["logits"]
    with torch.no_grad():
        theirs = model(tokens[None]).logits[0]
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference of the logits: {difference:.3g}, largest logit {theirs.abs().max().item():.3g}")
    sys.exit(0 if difference <= tolerance else 1)


if __name__ == "__main__":
    main()
