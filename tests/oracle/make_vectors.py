"""Writes tests/vectors/: tiny models with what PyTorch and transformers compute for them.

    pip install torch transformers safetensors numpy
    python tests/oracle/make_vectors.py [OUTPUT_FOLDER]

One folder a case: hf/ (config.json and model.safetensors, as transformers saves them), vectors.safetensors, expected.json.
Weights are drawn so that every part matters (attention far from uniform, norms far from one), then rounded to the dtype the
file has, so that f32, bf16 and f16 imports are all exercised. Everything is computed in f32 with eager attention.

vectors.safetensors:
  tokens, targets   i32 [steps, B, T]; a target of -100 has no loss
  logits            f32 [B, T, V] of step 0
  grad.<name>       f32, gradient of step 0's mean loss before clipping, under the tensor's Hugging Face name
  final.<name>      f32, every FINAL_STRIDE-th element of the tensor after the last step
expected.json: losses and gradient norms of STEPS AdamW steps, each on its own batch, and what the optimizer was.
"""
import copy
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

STEPS = 10
FINAL_STRIDE = 7
OPTIMIZER = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, max_norm=1.0)
VOCAB = 131  # a multiple of nothing

LLAMA = dict(vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=72, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)

CASES = {
    # name: (config, B, T, dtype of the weight file)
    "gpt2": (GPT2Config(vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=3, n_positions=160, bos_token_id=1, eos_token_id=2,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0), 1, 149, torch.float32),
    "llama_gqa_untied": (LlamaConfig(**LLAMA, tie_word_embeddings=False), 2, 37, torch.bfloat16),
    "llama_tied_head80": (LlamaConfig(**{**LLAMA, "num_attention_heads": 2, "num_key_value_heads": 1}, head_dim=80,
                                      tie_word_embeddings=True), 2, 37, torch.bfloat16),
    "llama3_rope": (LlamaConfig(**LLAMA, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE), 1, 97, torch.float16),
    "qwen2_bias": (Qwen2Config(**{**LLAMA, "num_key_value_heads": 1}, tie_word_embeddings=True), 2, 37, torch.bfloat16),
    "qwen3_qk_norm": (Qwen3Config(**LLAMA, head_dim=16, tie_word_embeddings=False), 3, 23, torch.float16),
}


def draw_weights(model, dtype, generator):
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=generator)
            if p.dim() == 2:
                fan_in = p.shape[0] if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else p.shape[1]
                value = z * (0.4 if "wpe" in name else 1.5 / fan_in**0.5)
            else:
                value = 0.2 * z + (0.0 if name.endswith("bias") else 1.0)
            p.copy_(value.to(dtype).float())


def optimizer_of(model):
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    o = OPTIMIZER
    return torch.optim.AdamW([dict(params=decay, weight_decay=o["weight_decay"]), dict(params=rest, weight_decay=0.0)],
                             lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], foreach=False)


def make_case(folder, name, seed):
    config, B, T, dtype = CASES[name]
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().train()
    draw_weights(model, dtype, generator)
    # A copy, because the conversion also rounds buffers such as the rotary frequencies.
    copy.deepcopy(model).to(dtype).save_pretrained(folder / "hf")
    (folder / "hf" / "generation_config.json").unlink()

    text = torch.randint(0, VOCAB, (STEPS, B, T + 1), generator=generator)
    tokens, targets = text[:, :, :-1].contiguous(), text[:, :, 1:].clone()
    if name == "gpt2":
        targets[:, :, 5:9] = -100
    out = dict(tokens=tokens.int(), targets=targets.int())
    losses, norms = [], []
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = model(tokens[step]).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets[step].view(-1), ignore_index=-100)
        loss.backward()
        if step == 0:
            out["logits"] = logits.detach().clone()
            out.update({f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()})
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["max_norm"], foreach=False).item())
        optimizer.step()
    out.update({f"final.{n}": p.detach().flatten()[::FINAL_STRIDE].clone() for n, p in model.named_parameters()})
    save_file(out, folder / "vectors.safetensors")
    expected = dict(losses=losses, gradient_norms=norms, optimizer=OPTIMIZER, final_stride=FINAL_STRIDE,
                    made_with=dict(torch=torch.__version__, transformers=transformers.__version__, seed=seed))
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    default = pathlib.Path(__file__).resolve().parent.parent / "vectors"
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for seed, name in enumerate(CASES):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        make_case(folder, name, seed)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{name}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
