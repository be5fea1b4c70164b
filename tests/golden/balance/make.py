# SPDX-License-Identifier: Apache-2.0
"""The sequence-wise balance loss of golden models and its gradients, from the papers' equations by automatic
differentiation (arXiv:2405.04434, eq. 23-25; arXiv:2412.19437, eq. 17-20), float64, on one sequence at a time.

usage: python make.py MODELS_DIR OUT_DIR     needs torch, transformers, safetensors; MODELS_DIR: ../models

OUT_DIR/NAME.safetensors: loss.LAYER [sequences]; grad/TENSOR of their sum over layers, the mean over sequences. The
experts that a token chose are those of the model's golden.safetensors.
"""
import os
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

NAMES = ["deepseek_v2_tiny", "deepseek_v3_tiny"]
GRADIENTS = ["mlp.gate.weight", "layers.0.self_attn.o_proj.weight", "layers.1.self_attn.kv_b_proj.weight"]


def balance(scores, experts):
    """sum_i f_i P_i of one sequence: scores [T,E] that sum to 1, experts [T,K]."""
    count = torch.bincount(experts.flatten(), minlength=scores.shape[1]).double()
    return ((scores.shape[1] / experts.numel()) * count * scores.mean(0)).sum()


def main(models, out):
    for name in NAMES:
        where = os.path.join(models, name)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            where, attn_implementation="eager", experts_implementation="eager", dtype=torch.float64).double().eval()
        golden = load_file(os.path.join(where, "golden.safetensors"))
        logits = {}
        for i, layer in enumerate(model.model.layers):
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(
                    lambda m, x, y, i=i: logits.__setitem__(i, x[0].flatten(0, -2) @ m.weight.T))
        losses, at = {}, 0
        lengths = golden["lengths"].tolist()
        for n in lengths:
            model(golden["input_ids"][None, at:at + n].long())
            for i, z in logits.items():
                a = z.sigmoid() if model.config.model_type == "deepseek_v3" else z.softmax(-1)
                experts = golden[f"route.{i}.experts"][at:at + n].long()
                losses.setdefault(i, []).append(balance(a / a.sum(-1, keepdim=True), experts))
            at += n
        sum(sum(x) for x in losses.values()).div(len(lengths)).backward()
        t = {f"loss.{i}": torch.stack(x).detach() for i, x in losses.items()}
        for key, p in model.named_parameters():
            if key.endswith(tuple(GRADIENTS)):
                t["grad/" + key] = p.grad
        save_file({k: v.float().contiguous() for k, v in t.items()}, os.path.join(out, name + ".safetensors"))
        print(name, {k: v.tolist() if v.dim() == 1 else float(v.norm()) for k, v in t.items()})


main(*sys.argv[1:])
