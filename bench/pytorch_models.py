"""The models of the benchmarks in PyTorch, with the arithmetic of Strata's. Importing it needs no torch.

GPT-2: learned positions, LayerNorm, tanh GELU, biases, tied head. Llama: rotary positions, RMSNorm, SwiGLU, grouped heads, no
biases, a head of its own. No dropout; attention is torch's scaled_dot_product_attention.
"""


def build_model(torch, sizes, positions, recompute=False):
    """model(tokens, targets) is the mean loss. `sizes`: of pytorch_common.MODELS; recompute: blocks keep their inputs alone."""
    make = {"gpt2": gpt2_parts, "llama": llama_parts}[sizes["kind"]]
    return assemble(torch, make(torch, sizes, positions), sizes, recompute)


def parameter_groups(model):
    """Weight decay on matrices only."""
    return [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]


def compile_model(model, how):
    if how == "full":
        model.compile()
    elif how == "blocks":
        for block in model.blocks:
            block.compile()


def assemble(torch, parts, sizes, recompute):
    nn, functional = torch.nn, torch.nn.functional

    class LanguageModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(parts["block"]() for _ in range(sizes["L"]))
            self.around = parts["around"]()
            for parameter in self.parameters():
                if parameter.dim() >= 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x, *with_all = self.around.enter(tokens)
            for block in self.blocks:
                if recompute:
                    x = torch.utils.checkpoint.checkpoint(block, x, *with_all, use_reentrant=False)
                else:
                    x = block(x, *with_all)
            return functional.cross_entropy(self.around.leave(x).view(-1, sizes["V"]), targets.view(-1))

    return LanguageModel()


def gpt2_parts(torch, sizes, positions):
    nn, functional = torch.nn, torch.nn.functional
    C, heads = sizes["C"], sizes["N"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.projection = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.up, self.down = nn.Linear(C, sizes["F"]), nn.Linear(sizes["F"], C)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = (t.view(B, T, heads, C // heads).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
            o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.projection(o.transpose(1, 2).reshape(B, T, C))
            return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(sizes["V"], C), nn.Embedding(positions, C)
            self.norm = nn.LayerNorm(C)

        def enter(self, tokens):
            return (self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device)),)

        def leave(self, x):
            return functional.linear(self.norm(x), self.tokens.weight)

    return {"block": Block, "around": Around}


def llama_parts(torch, sizes, positions):
    nn, functional = torch.nn, torch.nn.functional
    C, N, K, H, F = (sizes[letter] for letter in "CNKHF")

    def rotated(x, cosines, sines):
        a, b = x.chunk(2, dim=-1)
        return x * cosines + torch.cat((-b, a), dim=-1) * sines

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(C, eps=1e-5), nn.RMSNorm(C, eps=1e-5)
            self.qkv, self.output = nn.Linear(C, (N + 2 * K) * H, bias=False), nn.Linear(N * H, C, bias=False)
            self.gate_up, self.down = nn.Linear(C, 2 * F, bias=False), nn.Linear(F, C, bias=False)

        def forward(self, x, cosines, sines):
            B, T, _ = x.shape
            parts = self.qkv(self.norm1(x)).split((N * H, K * H, K * H), dim=2)
            q, k, v = (t.view(B, T, -1, H).transpose(1, 2) for t in parts)
            q, k = rotated(q, cosines, sines), rotated(k, cosines, sines)
            o = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=K != N)
            x = x + self.output(o.transpose(1, 2).reshape(B, T, N * H))
            gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=2)
            return x + self.down(functional.silu(gate) * up)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.norm = nn.Embedding(sizes["V"], C), nn.RMSNorm(C, eps=1e-5)
            self.head = nn.Linear(C, sizes["V"], bias=False)
            places, pairs = (torch.arange(0, end, step, dtype=torch.float32) for end, step in ((positions, 1), (H, 2)))
            angles = places[:, None] / 10000.0 ** (pairs[None, :] / H)
            angles = torch.cat((angles, angles), dim=1)
            self.register_buffer("cosines", angles.cos(), persistent=False)
            self.register_buffer("sines", angles.sin(), persistent=False)

        def enter(self, tokens):
            x, T = self.tokens(tokens), tokens.shape[1]
            # Under autocast the embedding is f32 and the products are not.
            dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
            return x, self.cosines[:T].to(dtype), self.sines[:T].to(dtype)

        def leave(self, x):
            return self.head(self.norm(x))

    return {"block": Block, "around": Around}
