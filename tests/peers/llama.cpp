// SPDX-License-Identifier: Apache-2.0
// The generation that `gradus bench rollout` times, with llama.cpp: B sequences with prompts of P
// random tokens, then N new tokens of each, one a step. Prints a JSON line
// {"batch","prefill","decode"}, tokens a second of the fastest of RUNS runs after one that warms
// up. tests/peers/rollout.py builds and runs it. usage: llama MODEL.gguf B P N THREADS GROUP (GROUP
// sequences share a prompt)
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <llama.h>

constexpr int RUNS = 3, AT_ONCE = 2048;

struct shape {
    int sequences, prompt, added, threads, group;
};

static double seconds()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

static void check(bool right, const char *what)
{
    if (right)
        return;
    std::fprintf(stderr, "llama.cpp: %s\n", what);
    std::exit(1);
}

static void put(llama_batch &b, llama_token token, int position, int sequence, bool logits)
{
    const int i = b.n_tokens++;
    b.token[i] = token;
    b.pos[i] = position;
    b.n_seq_id[i] = 1;
    b.seq_id[i][0] = sequence;
    b.logits[i] = logits;
}

static void compute(llama_context *context, llama_batch &b)
{
    check(b.n_tokens == 0 || llama_decode(context, b) == 0, "llama_decode");
    b.n_tokens = 0;
}

// The first sequence of each group reads the prompt, the others share its cells.
static void prefill(llama_context *context, llama_batch &b, const shape &s, int vocabulary)
{
    for (int i = 0; i < s.sequences; i += s.group)
        for (int t = 0; t < s.prompt; t++) {
            put(b, std::rand() % vocabulary, t, i, t == s.prompt - 1);
            if (b.n_tokens == AT_ONCE)
                compute(context, b);
        }
    compute(context, b);
    llama_synchronize(context);
    for (int i = 0; i < s.sequences; i++)
        if (i % s.group != 0)
            llama_memory_seq_cp(llama_get_memory(context), i - i % s.group, i, -1, -1);
}

static void decode(llama_context *context, llama_batch &b, const shape &s, int vocabulary)
{
    for (int step = 0; step < s.added; step++) {
        for (int i = 0; i < s.sequences; i++)
            put(b, std::rand() % vocabulary, s.prompt + step, i, true);
        compute(context, b);
        llama_synchronize(context);
    }
}

static llama_context *context_of(llama_model *model, const shape &s)
{
    llama_context_params p = llama_context_default_params();
    p.kv_unified = s.group > 1; // which sharing needs
    p.n_ctx = static_cast<uint32_t>((s.prompt + s.added + 16) * s.sequences);
    p.n_seq_max = static_cast<uint32_t>(s.sequences);
    p.n_batch = AT_ONCE;
    p.n_threads = p.n_threads_batch = s.threads;
    return llama_init_from_model(model, p);
}

int main(int argc, char **argv)
{
    check(argc == 7, "usage: llama MODEL.gguf B P N THREADS GROUP");
    const shape s = {std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]), std::atoi(argv[5]),
                     std::atoi(argv[6])};
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    check(model != nullptr, "the model does not open");
    llama_context *context = context_of(model, s);
    check(context != nullptr, "no context");
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_batch batch = llama_batch_init(AT_ONCE, 0, 1);
    double best_prefill = 0, best_decode = 0;
    for (int run = 0; run <= RUNS; run++) {
        llama_memory_clear(llama_get_memory(context), true);
        const double begin = seconds();
        prefill(context, batch, s, vocabulary);
        const double middle = seconds();
        decode(context, batch, s, vocabulary);
        const double end = seconds();
        if (run == 0)
            continue;
        best_prefill =
            std::max(best_prefill, double(s.sequences / s.group) * s.prompt / (middle - begin));
        best_decode = std::max(best_decode, double(s.sequences) * s.added / (end - middle));
    }
    std::printf("{\"batch\": %d, \"prefill\": %.2f, \"decode\": %.2f}\n", s.sequences, best_prefill,
                best_decode);
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
}
