#!/usr/bin/env python3
"""Trains a Llama shape in PyTorch from Strata's initial weights, on Strata's samples, by torch.optim.AdamW or the authors' APOLLO.

    bench/python_training.py SPECIFICATION.json --dtype float32 --threads 1

bench/training_vs_python.py writes the specification and runs this. Needs torch and numpy, and apollo-torch for APOLLO; prints one JSON object with the
loss of every step. On the CPU, where the authors' projections are those of Strata's `proj_seeds: authors`: their seeds count the parameters that are
not projected first, then the matrices in the order of the blocks, query, key, value, gate and up each one of its own. In float64 everything is but
the projections, which their code draws in float32.
"""
import argparse
import json
import pathlib

from pytorch_common import machine, start_torch
from pytorch_models import build_model
from python_optimizers import stand_in, without_init


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specification", type=pathlib.Path)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.tf32, options.device = False, "cpu"
    return options


def read_tensors(torch, path):
    """The f32 tensors of a safetensors file."""
    data = path.read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, tensor in json.loads(data[8:body]).items():
        if name == "__metadata__":
            continue
        if tensor["dtype"] != "F32":
            raise SystemExit(f"{path}: {name} is {tensor['dtype']}, not F32")
        begin, end = tensor["data_offsets"]
        found[name] = torch.frombuffer(bytearray(data[body + begin:body + end]), dtype=torch.float32).view(tensor["shape"])
    return found


def give_weights(torch, model, weights):
    """Puts exported weights into the model; the matrices of qkv and of gate_up become parameters of their own. Gives those that APOLLO projects."""
    parametrize = torch.nn.utils.parametrize

    class Stack(torch.nn.Module):
        def forward(self, *parts):
            return torch.cat(parts)

        def right_inverse(self, whole):
            return whole.split(self.rows)

    def stacked(linear, names):
        parts = [weights[name] for name in names]
        linear.weight = torch.nn.Parameter(torch.cat(parts))
        stack = Stack()
        stack.rows = [len(part) for part in parts]
        parametrize.register_parametrization(linear, "weight", stack)
        originals = linear.parametrizations.weight
        return [getattr(originals, f"original{i}") for i in range(len(parts))]

    def alone(module, name):
        module.weight = torch.nn.Parameter(weights[name].clone())
        return module.weight

    matrices = []
    for i, block in enumerate(model.blocks):
        layer = f"model.layers.{i}"
        alone(block.norm1, f"{layer}.input_layernorm.weight")
        alone(block.norm2, f"{layer}.post_attention_layernorm.weight")
        matrices += stacked(block.qkv, [f"{layer}.self_attn.{one}_proj.weight" for one in "qkv"])
        matrices.append(alone(block.output, f"{layer}.self_attn.o_proj.weight"))
        matrices += stacked(block.gate_up, [f"{layer}.mlp.{one}_proj.weight" for one in ("gate", "up")])
        matrices.append(alone(block.down, f"{layer}.mlp.down_proj.weight"))
    alone(model.around.tokens, "model.embed_tokens.weight")
    alone(model.around.norm, "model.norm.weight")
    alone(model.around.head, "lm_head.weight")
    return matrices


def make_optimizer(torch, keys, model, matrices):
    """keys: the section `optimizer` of Strata's configuration. The rate is set before every step."""
    common = {"lr": 0.0, "betas": (keys["beta1"], keys["beta2"]), "weight_decay": keys["weight_decay"]}
    if keys["type"] == "adamw":
        return torch.optim.AdamW(model.parameters(), eps=keys.get("eps", 1e-8), **common)
    stand_in("transformers", "transformers.utils", "transformers.utils.versions", "bitsandbytes", "tensorly")
    try:
        apollo = without_init("apollo_torch", "apollo")
    except ImportError as error:
        raise SystemExit(f"{error}: install apollo-torch") from error
    projected = {id(matrix) for matrix in matrices}
    tensor = keys.get("scale_type") == "tensor"
    group = {"params": matrices, "rank": 1 if tensor else keys["rank"], "update_proj_gap": keys["update_proj_gap"], "scale": 128.0 if tensor else 1.0,
             "scale_type": "tensor" if tensor else "channel", "proj": "random", "proj_type": "std"}
    return apollo.AdamW([{"params": [p for p in model.parameters() if id(p) not in projected]}, group], eps=keys.get("eps", 1e-6), **common)


def main():
    options = parse_arguments()
    torch = start_torch(options)
    import numpy
    import torch.nn.utils.parametrize

    given = json.loads(options.specification.read_text())
    dtype, T = getattr(torch, options.dtype), given["seq_length"]
    model = build_model(torch, given["sizes"], T)
    # Before the optimizer sees any: parameters are replaced.
    weights = {name: tensor.to(dtype) for name, tensor in read_tensors(torch, pathlib.Path(given["weights"])).items()}
    model.to(dtype)
    matrices = give_weights(torch, model, weights)
    optimizer = make_optimizer(torch, given["optimizer"], model, matrices)
    tokens = numpy.memmap(given["tokens"], dtype=numpy.uint16, mode="r")
    losses = []
    for lr, firsts in zip(given["learning_rates"], given["first_tokens"], strict=True):
        batch = torch.from_numpy(numpy.stack([tokens[first:first + T + 1] for first in firsts]).astype(numpy.int64))
        loss = model(batch[:, :-1], batch[:, 1:].contiguous())
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    print(json.dumps({"machine": machine(torch, options.device), "dtype": options.dtype, "parameters": sum(p.numel() for p in model.parameters()), "losses": losses}))


if __name__ == "__main__":
    main()
