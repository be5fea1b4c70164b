#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What PyTorch and transformers do on this machine at the shapes that gradus bench has: a copy, dense and grouped
products, attention, decoding, an update and a whole step of GRPO. No test needs it.

usage: gpu_torch.py [--layers 8] [--tokens 4096] [--device cuda] [--only PART,...] [--tiny]

The model is DeepSeek-V2-Lite's first layers (arXiv:2405.04434, appendix B) with random weights, by transformers'
DeepseekV2ForCausalLM in bfloat16, with the implementations of attention and experts that it chooses. As in gradus
bench, an update has sequences of 512 tokens, of which 128 are prompt, and a step of GRPO 8 x 8 samples of 128 + 128
tokens. AdamW is measured twice: on the bfloat16 weights themselves, and on float32 copies of them with float32 moments
("float32 masters"), which is what gradus has. A part that fails says so, and the rest goes on. --tiny: sizes for a try
on a CPU. Times are the best of three after a warm-up; of two for generation and steps of GRPO. Needs torch and
transformers.
"""
import argparse
import time
import traceback

import torch

PROMPT, NEW, SEQUENCE = 128, 64, 512
PROMPTS, SAMPLES, COMPLETION = 8, 8, 128
RUNS = 3
TABLE = []


def report(name, value, unit, seconds):
    TABLE.append((name, value, unit, seconds))
    print(f"{name}: {value:.1f} {unit}, {seconds * 1e3:.3f} ms", flush=True)


class Bench:
    def __init__(self, options):
        self.options = options
        self.device = torch.device(options.device)
        self.tiny = options.tiny
        torch.manual_seed(1)

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, call):
        self.sync()
        start = time.perf_counter()
        call()
        self.sync()
        return time.perf_counter() - start

    def best(self, call, inner=1):
        """Seconds of one call: the best of RUNS times `inner` calls in a row."""
        def several():
            for _ in range(inner):
                call()
        several()
        return min(self.timed(several) for _ in range(RUNS)) / inner

    def numbers(self, *shape, grad=False):
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16, requires_grad=grad)


# ---- the machine, and single operations

def copy(b):
    x = torch.randn(1 << (20 if b.tiny else 30), device=b.device)
    y = torch.empty_like(x)
    seconds = b.best(lambda: y.copy_(x), 4)
    report("copy, read and written", 2 * x.nbytes / seconds / 1e9, "GB/s", seconds)


def products(b):
    for m, k, n in [(256, 256, 256)] if b.tiny else [(8192, 8192, 8192), (8192, 2048, 2816), (64, 2048, 102400)]:
        x, w = b.numbers(m, k), b.numbers(n, k)
        seconds = b.best(lambda: torch.nn.functional.linear(x, w), 10)
        report(f"matmul {m} x {k} x {n}", 2 * m * k * n / seconds / 1e12, "TFLOP/s", seconds)


def grouped(b):
    """Experts' products, forward and gradient of the weights (in bfloat16, overwriting)."""
    function = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm
    experts, rows, k, n = (4, 32, 64, 96) if b.tiny else (64, 512, 2048, 2816)
    x, dy, w = b.numbers(experts * rows, k), b.numbers(experts * rows, n), b.numbers(experts, n, k)
    ends = torch.arange(1, experts + 1, device=b.device, dtype=torch.int32) * rows
    flops = 2 * experts * rows * k * n
    shape = f"{experts} experts, {rows} rows each, {k} to {n}"
    seconds = b.best(lambda: function(x, w.transpose(-2, -1), offs=ends), 5)
    report(f"grouped_mm {shape}", flops / seconds / 1e12, "TFLOP/s", seconds)
    seconds = b.best(lambda: function(dy.t(), x, offs=ends), 5)
    report(f"grouped_mm dW {shape}", flops / seconds / 1e12, "TFLOP/s", seconds)


def attention(b):
    """Causal attention, 16 heads of 192 and 128, by every implementation that takes it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    heads, batch = (2, 2) if b.tiny else (16, 8)
    for length in [64] if b.tiny else [1024, 4096]:
        q, k = (b.numbers(batch, heads, length, 192, grad=True) for _ in range(2))
        v = b.numbers(batch, heads, length, 128, grad=True)
        dout = b.numbers(batch, heads, length, 128)
        flops = batch * heads * length * (length + 1) / 2 * 2 * (192 + 128)
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            name = f"SDPA {backend.name.split('_')[0].lower()}, {batch} x {length} tokens, {heads} heads"
            try:
                with sdpa_kernel(backend):
                    def forward():
                        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                    seconds = b.best(forward, 5)
                    report(f"{name}, forward", flops / seconds / 1e12, "TFLOP/s", seconds)
                    out = forward()
                    seconds = b.best(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True), 5)
                    report(f"{name}, backward", 2.5 * flops / seconds / 1e12, "TFLOP/s", seconds)
            except RuntimeError as error:
                print(f"{name}: {str(error).splitlines()[0]}", flush=True)


# ---- the model

def build(b):
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM
    sizes = dict(vocab_size=102400, hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408,
                 num_attention_heads=16, num_key_value_heads=16, q_lora_rank=None, kv_lora_rank=512,
                 qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=64, n_shared_experts=2,
                 num_experts_per_tok=6, n_group=1, topk_group=1)
    if b.tiny:
        sizes.update(vocab_size=512, hidden_size=64, intermediate_size=128, moe_intermediate_size=32,
                     num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=32, qk_rope_head_dim=16,
                     qk_nope_head_dim=32, v_head_dim=32, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2)
    config = DeepseekV2Config(num_hidden_layers=b.options.layers, first_k_dense_replace=1, max_position_embeddings=4096,
                              topk_method="greedy", bos_token_id=None, eos_token_id=None, pad_token_id=0, **sizes)
    torch.set_default_dtype(torch.bfloat16)
    with b.device:
        model = DeepseekV2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count / 1e6:.1f} million parameters; attention {config._attn_implementation}, "
          f"experts {config._experts_implementation}", flush=True)
    return model


def generate(b, model, prompts, new):
    with torch.no_grad():
        return model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
                              do_sample=True, top_k=0, top_p=1.0, temperature=1.0)


def tokens(b, model, rows, length):
    return torch.randint(1, model.config.vocab_size, (rows, length), device=b.device)


def decoding(b, model):
    for batch in [1, 3] if b.tiny else [1, 64, 256]:
        prompts, new = tokens(b, model, batch, PROMPT), 4 if b.tiny else NEW
        generate(b, model, prompts, 2)
        first = min(b.timed(lambda: generate(b, model, prompts, 1)) for _ in range(2))
        seconds = min(b.timed(lambda: generate(b, model, prompts, new)) for _ in range(2)) - first
        report(f"prefill, {batch} prompts of {PROMPT}", batch * PROMPT / first, "tokens/s", first)
        report(f"decode, {batch} sequences, {new} new tokens", batch * (new - 1) / seconds, "tokens/s", seconds)


class Masters:
    """AdamW on float32 copies of bfloat16 weights."""

    def __init__(self, weights):
        self.weights = list(weights)
        self.copies = [w.detach().float() for w in self.weights]
        self.inner = torch.optim.AdamW(self.copies, lr=1e-5, fused=True)

    def step(self):
        for w, c in zip(self.weights, self.copies):
            c.grad = w.grad.float()
            w.grad = None
        torch.nn.utils.clip_grad_norm_(self.copies, 1.0)
        self.inner.step()
        self.inner.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.copies)


class Plain:
    """AdamW on the weights as they are, moments in their type."""

    def __init__(self, weights):
        self.weights = list(weights)
        self.inner = torch.optim.AdamW(self.weights, lr=1e-5, fused=True)

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.inner.step()
        self.inner.zero_grad()


def run_pass(model, ids, prompt, scale):
    """Minus the mean of advantage times log-probability of the completions; gradients are added up."""
    logits = model(ids, use_cache=False, logits_to_keep=ids.shape[1] - prompt + 1).logits[:, :-1]
    logprob = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, prompt:, None])[..., 0]
    sign = torch.ones_like(logprob)
    sign[::2] = -1
    (logprob * sign).sum().div(scale).backward()


def update(b, model, optimizer, name):
    count = max(1, b.options.tokens // SEQUENCE)
    ids = tokens(b, model, count, SEQUENCE)
    both = lambda: run_pass(model, ids, PROMPT, count * (SEQUENCE - PROMPT))  # noqa: E731
    passes, steps = [], []
    for _ in range(RUNS + 1):
        passes.append(b.timed(both))
        steps.append(b.timed(optimizer.step))
    seconds, i = min((p + s, i) for i, (p, s) in enumerate(zip(passes, steps)) if i > 0)
    report(f"forward and backward, {ids.numel()} tokens", ids.numel() / passes[i], "tokens/s", passes[i])
    report(f"AdamW, {name}", sum(p.numel() for p in model.parameters()) / steps[i] / 1e9, "G parameters/s", steps[i])
    report(f"update, {ids.numel()} tokens in sequences of {SEQUENCE}, {name}", ids.numel() / seconds, "tokens/s",
           seconds)


def grpo_step(b, model, optimizer, name):
    prompts, new = tokens(b, model, PROMPTS, PROMPT).repeat_interleave(SAMPLES, 0), 4 if b.tiny else COMPLETION
    rows = max(1, b.options.tokens // (PROMPT + new))
    times = []
    for _ in range(1 + 2):
        drawn = []
        rollout = b.timed(lambda: drawn.append(generate(b, model, prompts, new)))
        passes = b.timed(lambda: [run_pass(model, part, PROMPT, len(prompts) * new) for part in drawn[0].split(rows)])
        step = b.timed(optimizer.step)
        times.append((rollout + passes + step, rollout, passes, step))
    total, rollout, passes, step = min(times[1:])
    count = len(prompts) * new
    name = f"GRPO step, {PROMPTS} x {SAMPLES} samples of {PROMPT} + {new}, {name}"
    report(name, count / total, "tokens/s", total)
    for part, seconds in (("rollout", rollout), ("passes", passes), ("optimizer", step)):
        report(f"  {part}", count / seconds, "tokens/s", seconds)


def training(b, model):
    for kind, name in ((Plain, "bfloat16"), (Masters, "float32 masters")):
        optimizer = None
        try:
            optimizer = kind(model.parameters())
            update(b, model, optimizer, name)
            grpo_step(b, model, optimizer, name)
            if b.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated() / 2**30
                print(f"peak memory so far, {name}: {peak:.1f} GiB", flush=True)
        except Exception:
            traceback.print_exc()
        del optimizer
        model.zero_grad()
        free(b)


def free(b):
    if b.device.type == "cuda":
        torch.cuda.empty_cache()


def run_part(b, name, call, *arguments):
    if b.options.only and name not in b.options.only.split(","):
        return
    start = time.perf_counter()
    try:
        call(b, *arguments)
    except Exception:
        traceback.print_exc()
    free(b)
    print(f"[{name}: {time.perf_counter() - start:.1f} s]", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="of a micro-batch")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", help="copy, products, grouped, attention, decoding, training; separated by commas")
    parser.add_argument("--tiny", action="store_true")
    b = Bench(parser.parse_args())
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if b.device.type == 'cuda' else b.device}")
    for name, call in (("copy", copy), ("products", products), ("grouped", grouped), ("attention", attention)):
        run_part(b, name, call)
    parts = (("decoding", decoding), ("training", training))
    if not b.options.only or any(name in b.options.only.split(",") for name, _ in parts):
        model = build(b)
        for name, call in parts:
            run_part(b, name, call, model)
    print(f"\n{'case':<86} {'value':>12} {'unit':<14} {'ms':>10}")
    for name, value, unit, seconds in TABLE:
        print(f"{name:<86} {value:>12.1f} {unit:<14} {seconds * 1e3:>10.3f}")


if __name__ == "__main__":
    main()
