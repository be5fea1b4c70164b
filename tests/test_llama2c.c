// SPDX-License-Identifier: Apache-2.0
// A real pretrained model of Llama-2's architecture (shared/data/checkpoints, in the layout of
// llama2.c) becomes a Hugging Face directory, opens, and writes the text that llama2.c writes.
#include "tests/model_fixture.h"

#include "kernels/block.h"

#define CHECKPOINTS TEST_DATA "/data/checkpoints/"

// The file: these seven, then float32 tensors, those of one kind for all layers together, then
// tables of positions that nobody needs.
struct header {
    int32_t C, width, L, H, Hkv, V, positions;
};

struct import {
    struct strbuf file, config;
    struct header size;
    struct tensor *tensors;
    char (*names)[96];
    float **turned; // rows of queries and keys in the order of halves
    int count, num_turned;
};

static const float *floats_of(const struct import *m)
{
    return (const float *)(const void *)(m->file.data + sizeof m->size);
}

// llama2.c rotates neighbouring rows of a head, the files of Hugging Face row i with row i + D/2.
static const float *turn(struct import *m, const float *w, int heads)
{
    const size_t C = (size_t)m->size.C, D = (size_t)(m->size.C / m->size.H);
    float *out = mem_floats((size_t)heads * D * C);
    for (size_t h = 0; h < (size_t)heads; h++) {
        for (size_t i = 0; i < D; i++) {
            const size_t from = h * D + i, to = h * D + i / 2 + (i % 2) * (D / 2);
            memcpy(out + to * C, w + from * C, C * sizeof *w);
        }
    }
    return m->turned[m->num_turned++] = out;
}

// Names the next tensors of the file, [rows,columns] (columns 0: a vector): one for each of
// `layers`, or (0) one of no layer. Returns where they end. heads: of a projection whose rows are
// rotated.
static const float *take(struct import *m, const float *at, const char *name, int layers, int rows,
                         int columns, int heads)
{
    const size_t n = (size_t)rows * (size_t)(columns ? columns : 1);
    for (int l = 0; l < (layers ? layers : 1); l++, at += n) {
        struct tensor *t = &m->tensors[m->count];
        char *to = m->names[m->count++];
        if (layers) {
            snprintf(to, sizeof *m->names, "model.layers.%d.%s.weight", l, name);
        } else {
            snprintf(to, sizeof *m->names, "model.%s.weight", name);
        }
        *t = (struct tensor){.name = to,
                             .dtype = TENSOR_F32,
                             .rank = columns ? 2 : 1,
                             .shape = {rows, columns},
                             .data = heads ? turn(m, at, heads) : at,
                             .size = n * sizeof *at};
    }
    return at;
}

static void take_all(struct import *m)
{
    const struct header *s = &m->size;
    const int D = s->C / s->H, q = s->H * D, kv = s->Hkv * D;
    const float *at = floats_of(m);
    at = take(m, at, "embed_tokens", 0, s->V, s->C, 0);
    at = take(m, at, "input_layernorm", s->L, s->C, 0, 0);
    at = take(m, at, "self_attn.q_proj", s->L, q, s->C, s->H);
    at = take(m, at, "self_attn.k_proj", s->L, kv, s->C, s->Hkv);
    at = take(m, at, "self_attn.v_proj", s->L, kv, s->C, 0);
    at = take(m, at, "self_attn.o_proj", s->L, s->C, q, 0);
    at = take(m, at, "post_attention_layernorm", s->L, s->C, 0, 0);
    at = take(m, at, "mlp.gate_proj", s->L, s->width, s->C, 0);
    at = take(m, at, "mlp.down_proj", s->L, s->C, s->width, 0);
    at = take(m, at, "mlp.up_proj", s->L, s->width, s->C, 0);
    at = take(m, at, "norm", 0, s->C, 0, 0);
    const size_t tables = (size_t)s->positions * (size_t)D * sizeof *at;
    assert_int_equal((const char *)at + tables - m->file.data, m->file.len);
}

// Writes the model into dir.
static void import_model(const char *dir)
{
    struct import m = {0};
    assert_ok(file_read(&m.file, CHECKPOINTS "aidreams260K.bin", 0, ERR_DATA));
    memcpy(&m.size, m.file.data, sizeof m.size);
    const struct header *s = &m.size;
    assert_true(s->V > 0 && s->L > 0); // a negative vocabulary would say that the head is not tied
    m.tensors = mem_array0(2 + 9 * (size_t)s->L, sizeof *m.tensors);
    m.names = mem_array0(2 + 9 * (size_t)s->L, sizeof *m.names);
    m.turned = mem_array0(2 * (size_t)s->L, sizeof *m.turned);
    take_all(&m);
    char *config = path_join(dir, "config.json"), *weights = path_join(dir, "model.safetensors");
    strbuf_printf(&m.config,
                  "{\"model_type\":\"llama\",\"vocab_size\":%d,\"hidden_size\":%d,"
                  "\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
                  "\"num_key_value_heads\":%d,\"max_position_embeddings\":%d,"
                  "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true,\"bos_token_id\":1}",
                  s->V, s->C, s->width, s->L, s->H, s->Hkv, s->positions);
    assert_ok(file_write_atomic(config, m.config.data, m.config.len));
    assert_ok(safetensors_write(weights, NULL, m.tensors, m.count, NULL, 0));
    for (int i = 0; i < m.num_turned; i++) {
        free(m.turned[i]);
    }
    free(m.turned);
    free(m.tensors);
    free(m.names);
    free(config);
    free(weights);
    strbuf_free(&m.config);
    strbuf_free(&m.file);
}

// Appends what token id stands for. The file: an int32, then for each token a score, a length and
// so many bytes; after the first token a leading space is dropped.
static void append_piece(struct strbuf *text, const struct strbuf *vocabulary, int id)
{
    size_t at = sizeof(int32_t);
    for (int i = 0;; i++) {
        int32_t len;
        memcpy(&len, vocabulary->data + at + sizeof(float), sizeof len);
        at += sizeof(float) + sizeof len;
        assert_true(len >= 0 && at + (size_t)len <= vocabulary->len);
        if (i == id) {
            const bool space = text->len == 0 && len > 0 && vocabulary->data[at] == ' ';
            strbuf_printf(text, "%.*s", len - space, vocabulary->data + at + space);
            return;
        }
        at += (size_t)len;
    }
}

// Every token of `expected` after the first is the best one after those before it.
static int generate(struct policy *p, const struct json_doc *doc, const struct json *expected,
                    struct strbuf *text)
{
    const int pages[] = {0, 1}, V = p->arch.V;
    struct strbuf vocabulary = {0};
    struct kv_cache *cache = NULL;
    float *logits = device_new(p->dev, NULL, (size_t)V * sizeof *logits);
    assert_ok(file_read(&vocabulary, CHECKPOINTS "tok512.bin", 0, ERR_DATA));
    assert_ok(kv_cache_open(&cache, p->dev, &p->arch, p->dtype, 2));
    int token = p->arch.bos_id, pos = 0;
    for (const struct json *v = json_first(expected); v; v = json_next(v), pos++) {
        int64_t id;
        assert_true(json_int(doc, v, 0, V - 1, &id));
        assert_int_equal(token, id);
        if (pos > 0) {
            append_piece(text, &vocabulary, token);
        }
        const struct policy_chunk chunk = {.len = 1, .pos = pos, .pages = pages};
        const int last = 0;
        assert_ok(policy_decode(p, cache, 1, &token, 1, &chunk, 1, &last, logits));
        float *host = device_floats(p->dev, logits, (size_t)V);
        token = top_token(host, V);
        free(host);
    }
    kv_cache_free(&cache);
    device_release(p->dev, logits);
    strbuf_free(&vocabulary);
    return pos;
}

static void a_real_model_writes_its_text(void **state)
{
    (void)state;
    if (!file_exists(CHECKPOINTS "aidreams260K.bin")) {
        print_message("# why: shared/data/checkpoints is not here\n");
        skip();
    }
    char *dir = temporary_dir();
    struct json_doc *doc = NULL;
    import_model(dir);
    assert_ok(json_parse_file(&doc, CHECKPOINTS "aidreams260K.expected.json", 0, ERR_DATA));
    int devices[TEST_DEVICES_MAX], n = test_devices(devices);
    for (int d = 0; d < n; d++) {
        struct device *dev = NULL;
        struct policy *p = NULL;
        struct strbuf text = {0};
        assert_ok(test_device_open(&dev, NULL, devices[d]));
        assert_ok(policy_open(&p, dev, dir, DTYPE_F32, false));
        const struct json *ids = json_get(json_root(doc), "greedy_ids_from_bos");
        assert_int_equal(generate(p, doc, ids, &text), 100);
        strbuf_puts(&text, "\n");
        assert_string_equal(text.data,
                            json_string(json_get(json_root(doc), "greedy_text_from_llama2c_run")));
        strbuf_free(&text);
        policy_free(&p);
        test_device_close(&dev);
    }
    json_free(&doc);
    assert_ok(dir_remove_all(dir));
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_real_model_writes_its_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
