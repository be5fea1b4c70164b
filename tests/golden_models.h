// SPDX-License-Identifier: Apache-2.0
// The models of tests/golden/models.
#ifndef TESTS_GOLDEN_MODELS_H
#define TESTS_GOLDEN_MODELS_H

static const char *const golden_models[] = {"deepseek_v2_lite_tiny",
                                            "deepseek_v2_tiny",
                                            "deepseek_v3_tiny",
                                            "deepseek_v3_nogroup_tiny",
                                            "llama_tiny",
                                            "llama_bias_tiny",
                                            "qwen2_tiny",
                                            "qwen3_tiny",
                                            "qwen3_moe_tiny"};
enum { NUM_GOLDEN_MODELS = sizeof golden_models / sizeof *golden_models };

#endif
