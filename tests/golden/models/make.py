# SPDX-License-Identifier: Apache-2.0
"""Tiny models with numbers of transformers, for what the fixtures of shared/ do not have: a mixture of Qwen3's with
YaRN, and a Llama whose four projections have biases.

usage: make.py OUT_DIR     (needs torch, transformers and safetensors; float32 on the CPU, every sequence run alone)
OUT_DIR/NAME gets config.json as published models have it, config.v5.json as transformers writes it, model.safetensors,
golden.safetensors and golden.json, with the names that tests/golden/README.md's other models have.
"""
import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

SIZES = dict(vocab_size=160, hidden_size=48, num_hidden_layers=3, rms_norm_eps=1e-6, max_position_embeddings=2048,
             bos_token_id=0, eos_token_id=1, hidden_act="silu", initializer_range=0.02, tie_word_embeddings=False)
MODELS = {
    "qwen3_moe_tiny": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM, 3, dict(
        SIZES, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=8,
        num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True, decoder_sparse_step=1,
        mlp_only_layers=[0], rope_theta=10000.0, attention_bias=False, use_sliding_window=False,
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64))),
    "llama_bias_tiny": (transformers.LlamaConfig, transformers.LlamaForCausalLM, 5, dict(
        SIZES, num_hidden_layers=2, intermediate_size=80, num_attention_heads=3, num_key_value_heads=3,
        rope_theta=10000.0, attention_bias=True, mlp_bias=False, rope_scaling=None)),
}
LENGTHS = (24, 5, 61, 40)
PROMPTS, NEW = (8, 5, 20), 24  # tokens of the first three sequences that are continued, and by how many


def set_weights(model, generator):
    """Large enough that attention, routing and the distribution over tokens are far from even."""
    for name, p in sorted(model.named_parameters()):
        z = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            z = 1 + 0.1 * z
        elif name.endswith("bias"):
            z = 0.2 * z
        elif "embed_tokens" in name:
            z = 0.5 * z
        else:
            z = z * ((2.5 if "lm_head" in name else 0.9) / math.sqrt(p.shape[-1]))
        p.data.copy_(z)


def on_disk(name, gradient):
    """The tensors of published files in one parameter: transformers 5 holds experts stacked."""
    stem, _, kind = name.rpartition(".")
    if not stem.endswith("mlp.experts"):
        yield name, gradient
        return
    for e, g in enumerate(gradient):
        if kind == "down_proj":
            yield f"{stem}.{e}.down_proj.weight", g
        else:
            for part, half in zip(("gate_proj", "up_proj"), g.chunk(2)):
                yield f"{stem}.{e}.{part}.weight", half


def scored(logits, ids, tau=1.0):
    """Log-probability of each token but the first, and entropy of the distribution that it comes from."""
    log_p = torch.log_softmax(logits / tau, -1)
    return log_p[:-1].gather(1, ids[1:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)[:-1]


def loss_of(model, sequences):
    """Mean negative log-probability of all tokens that have one."""
    parts = [scored(model(s[None]).logits[0], s)[0] for s in sequences]
    return -torch.cat(parts).mean()


def routed(model):
    """Calls that add the chosen experts and their weights of each pass to the lists of a layer."""
    routes = {}

    def keep(layer):
        return lambda gate, _, out: routes.setdefault(layer, []).append((gate, *out))
    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(keep(i))
    return routes


def route_tensors(routes):
    """Experts ascending with their weights, and how near a choice was to another."""
    tensors, gap = {}, math.inf
    for layer, passes in routes.items():
        experts = torch.cat([p[3] for p in passes])
        weights = torch.cat([p[2] for p in passes])
        experts, order = experts.sort(-1)
        tensors[f"route.{layer}.experts"] = experts.int()
        tensors[f"route.{layer}.weights"] = weights.gather(-1, order)
        k = experts.shape[1]
        ranked = torch.cat([p[1] for p in passes]).softmax(-1).sort(-1, descending=True).values
        gap = min(gap, float((ranked[:, k - 1] - ranked[:, k]).min()))
    return tensors, gap


def forward_tensors(model, sequences):
    """Everything that one pass over each sequence shows."""
    routes = routed(model)
    outs = [model(s[None], output_hidden_states=True) for s in sequences]
    tensors, gap = route_tensors(routes)
    tensors["input_ids"] = torch.cat(sequences).int()
    tensors["lengths"] = torch.tensor(LENGTHS).int()
    tensors["logits"] = torch.cat([o.logits[0] for o in outs])
    tensors["hidden_states"] = torch.cat([torch.cat(o.hidden_states) for o in outs], 1)
    for tau, suffix in ((1.0, ""), (0.7, "_t0.7")):
        pairs = [scored(o.logits[0], s, tau) for o, s in zip(outs, sequences)]
        tensors["logprobs" + suffix] = torch.cat([p[0] for p in pairs])
        tensors["entropy" + suffix] = torch.cat([p[1] for p in pairs])
    return tensors, gap


def continued(model, sequences):
    """Greedy continuations, and how near the second best token came."""
    texts, margin = [], math.inf
    for s, prompt in zip(sequences, PROMPTS):
        ids = s[:prompt]
        for _ in range(NEW):
            best = model(ids[None]).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            ids = torch.cat([ids, best.indices[:1]])
        texts.append(ids.tolist())
    return dict(prompts=PROMPTS, new_tokens=NEW, sequences=texts, smallest_logit_margin=margin)


def ten_steps(model, sequences):
    """AdamW on the whole batch: clipped to norm 1, decay of matrices but the embedding."""
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embed" not in n]
    others = [p for p in model.parameters() if not any(p is q for q in matrices)]
    settings = dict(lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)],
                                  **settings)
    losses, norms = [], []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(model, sequences)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        losses.append(float(loss.detach()))
        optimizer.step()
    losses.append(float(loss_of(model, sequences).detach()))
    return dict(settings, weight_decay=0.1, clip_norm=1.0, losses=losses, grad_norms_before_clipping=norms)


def make(name, out, seed):
    """Writes a model; returns whether nothing in it is near a tie, which rounding would decide."""
    config_class, model_class, _, fields = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    model = model_class(config_class(**json.loads(json.dumps(fields)), attn_implementation="eager")).eval()
    set_weights(model, generator)
    sequences = [torch.randint(2, fields["vocab_size"], (n,), generator=generator) for n in LENGTHS]
    model.save_pretrained(out)
    (out / "config.json").rename(out / "config.v5.json")
    (out / "generation_config.json").unlink()
    published = dict(architectures=[model_class.__name__], model_type=config_class.model_type, torch_dtype="float32",
                     **fields)
    (out / "config.json").write_text(json.dumps(published, indent=1) + "\n")

    with torch.no_grad():
        reopened = model_class.from_pretrained(out, attn_implementation="eager").eval()
        assert torch.equal(reopened(sequences[2][None]).logits, model(sequences[2][None]).logits)
        half = model_class.from_pretrained(out, attn_implementation="eager", dtype=torch.bfloat16).eval()
        tensors, gap = forward_tensors(model, sequences)
        tensors["logits_bf16"] = torch.cat([half(s[None]).logits[0].float() for s in sequences])
        greedy = continued(model, sequences)
    loss = loss_of(model, sequences)
    loss.backward()
    disk = load_file(out / "model.safetensors")
    for parameter, p in model.named_parameters():
        for n, g in on_disk(parameter, p.grad):
            assert disk[n].shape == g.shape
            tensors["grad/" + n] = g.clone()
    assert all("grad/" + n in tensors for n in disk)
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, out / "golden.safetensors")
    versions = dict(transformers=transformers.__version__, torch=torch.__version__)
    facts = dict(model=name, seed=seed, versions=versions, loss=float(loss.detach()),
                 smallest_routing_gap=min(gap, 1.0), greedy=greedy, adamw=ten_steps(model, sequences))
    (out / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(name, "seed", seed, "loss", facts["loss"], "margin", greedy["smallest_logit_margin"], "gap", gap)
    return greedy["smallest_logit_margin"] >= 0.003 and gap >= 2e-5


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for model_name, (_, _, first_seed, _) in MODELS.items():
        path = pathlib.Path(sys.argv[1]) / model_name
        path.mkdir(parents=True, exist_ok=True)
        while not make(model_name, path, first_seed):
            first_seed += 100
