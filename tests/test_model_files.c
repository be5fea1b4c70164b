// SPDX-License-Identifier: Apache-2.0
// Model directories: every byte survives load and save, shards are read, and bad ones are refused
// with what is wrong.
#include "tests/model_fixture.h"

#include "tests/fenced_device.h"

#include <sys/stat.h>

// A copy of a golden model whose files a test then spoils.
struct copy {
    char *dir;
    struct device *dev;
};

static void copy_file(const char *from, const char *to)
{
    struct strbuf bytes = {0};
    assert_ok(file_read(&bytes, from, 0, ERR_MODEL));
    assert_ok(file_write_atomic(to, bytes.data, bytes.len));
    strbuf_free(&bytes);
}

static struct copy copy_open(const char *model)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    struct copy c = {.dir = temporary_dir()};
    for (int i = 0; i < 2; i++) {
        char *from = golden_path(model, files[i]), *to = path_join(c.dir, files[i]);
        copy_file(from, to);
        free(from);
        free(to);
    }
    assert_ok(test_device_open(&c.dev, NULL, DEVICE_FENCED));
    return c;
}

static void copy_close(struct copy *c)
{
    assert_ok(dir_remove_all(c->dir));
    free(c->dir);
    test_device_close(&c->dev);
}

// Opening fails, to be trained or only read, with ERR_MODEL and a message that holds the text.
static void refused(struct copy *c, const char *text)
{
    for (int read_only = 0; read_only < 2; read_only++) {
        const struct policy_source source = {.dir = c->dir, .read_only = read_only != 0};
        struct policy *p = NULL;
        assert_int_equal(policy_open_source(&p, c->dev, &source, DTYPE_F32), ERR_MODEL);
        assert_null(p);
        assert_int_equal(fenced_bytes(c->dev), 0);
        if (!strstr(err_message(), text)) {
            fail_msg("expected \"%s\" in: %s", text, err_message());
        }
    }
}

static struct safetensors *open_tensors(const char *dir)
{
    struct safetensors *s = NULL;
    char *path = path_join(dir, "model.safetensors");
    assert_ok(safetensors_open(&s, path, ERR_MODEL));
    free(path);
    return s;
}

static void write_tensors(const char *dir, const char *file, const struct tensor *t, int count)
{
    char *path = path_join(dir, file);
    assert_ok(safetensors_write(path, NULL, t, count, NULL, 0));
    free(path);
}

static void write_text(const char *dir, const char *file, const char *text)
{
    char *path = path_join(dir, file);
    assert_ok(file_write_atomic(path, text, strlen(text)));
    free(path);
}

static void assert_same_weights(const struct policy *a, const struct policy *b)
{
    assert_int_equal(a->params.size, b->params.size);
    float *x = device_floats(a->dev, a->params.data, a->params.size);
    float *y = device_floats(b->dev, b->params.data, b->params.size);
    assert_same_bits("weight", x, y, a->params.size);
    free(x);
    free(y);
}

static void every_byte_of_the_weights_survives_load_and_save(void **state)
{
    (void)state;
    for (int i = 0; i < NUM_GOLDEN_MODELS; i++) {
        struct fixture f = fixture_open(golden_models[i], DEVICE_FENCED, 1);
        struct strbuf before = {0}, after = {0};
        char *dir = temporary_dir(), *saved = path_join(dir, "model.safetensors");
        char *original = golden_path(golden_models[i], "model.safetensors");
        assert_ok(policy_save(f.p, dir));
        assert_ok(file_read(&before, original, 0, ERR_MODEL));
        assert_ok(file_read(&after, saved, 0, ERR_MODEL));
        assert_int_equal(after.len, before.len);
        assert_memory_equal(after.data, before.data, before.len); // header and order as well
        struct policy *again = NULL;
        assert_ok(policy_open(&again, f.dev, dir, DTYPE_F32, false));
        assert_same_weights(again, f.p);
        policy_free(&again);
        assert_ok(dir_remove_all(dir));
        strbuf_free(&before);
        strbuf_free(&after);
        free(dir);
        free(saved);
        free(original);
        fixture_close(&f);
    }
}

static void a_value_head_is_added_as_zero_and_kept(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[0], DEVICE_FENCED, 1);
    struct policy *prm = NULL, *again = NULL;
    char *dir = temporary_dir();
    assert_ok(policy_clone(&prm, f.p, true, false));
    const struct param *w = params_find(&prm->params, "score.weight");
    assert_int_equal(w->size, prm->arch.C);
    float *head = device_floats(prm->dev, prm->params.data + w->offset, w->size);
    for (size_t i = 0; i < w->size; i++) {
        assert_true(head[i] == 0);
        head[i] = 0.5f;
    }
    device_put(prm->dev, prm->params.data + w->offset, head, w->size * sizeof *head);
    free(head);
    assert_ok(policy_weights_changed(prm));
    assert_ok(policy_save(prm, dir));
    assert_ok(policy_open(&again, f.dev, dir, DTYPE_F32, false)); // found in the files
    assert_true(again->arch.value_head);
    assert_same_weights(again, prm);
    policy_free(&again);
    assert_ok(policy_clone(&again, prm, false, false));
    assert_same_weights(again, f.p);
    policy_free(&again);
    policy_free(&prm);
    assert_ok(dir_remove_all(dir));
    free(dir);
    fixture_close(&f);
}

static void new_weights_depend_on_seed_name_and_index_alone(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[2], DEVICE_FENCED, 1);
    struct policy *a = NULL, *b = NULL, *other = NULL;
    struct arch deeper = f.p->arch;
    deeper.L += 2;
    assert_ok(policy_create(&a, f.dev, &f.p->arch, DTYPE_F32, 7));
    assert_ok(policy_create(&b, f.dev, &deeper, DTYPE_F32, 7));
    assert_ok(policy_create(&other, f.dev, &f.p->arch, DTYPE_F32, 8));
    double sum = 0, squares = 0;
    float *of_a = device_floats(f.dev, a->params.data, a->params.size);
    float *of_b = device_floats(f.dev, b->params.data, b->params.size);
    float *of_other = device_floats(f.dev, other->params.data, other->params.size);
    for (int i = 0; i < a->params.count; i++) {
        const struct param *q = &a->params.list[i];
        const float *x = of_a + q->offset;
        const struct param *same = params_find(&b->params, "%s", q->name);
        assert_same_bits(q->name, of_b + same->offset, x, q->size);
        if (q->rank == 1) {
            assert_true(x[0] == (strstr(q->name, "norm") ? 1.0f : 0.0f));
        } else {
            assert_memory_not_equal(x, of_other + q->offset, q->size * sizeof *x);
        }
    }
    const struct param *embed = params_find(&a->params, "model.embed_tokens.weight");
    for (size_t i = 0; i < embed->size; i++) {
        sum += (double)of_a[embed->offset + i];
        squares += pow((double)of_a[embed->offset + i], 2);
    }
    double n = (double)embed->size, sd = f.p->arch.init_range; // 7,680 draws: five standard errors
    assert_true(fabs(sum / n) < 5 * sd / sqrt(n));
    assert_true(fabs(sqrt(squares / n) / sd - 1) < 5 / sqrt(2 * n));
    free(of_a);
    free(of_b);
    free(of_other);
    policy_free(&a);
    policy_free(&b);
    policy_free(&other);
    fixture_close(&f);
}

// The tensors of a golden model in two shards, under an index that the test may spoil.
static void write_shards(struct copy *c, const char *second_name, int moved)
{
    struct safetensors *s = open_tensors(c->dir);
    struct strbuf index = {0};
    int half = s->count / 2;
    write_tensors(c->dir, "model-00001-of-00002.safetensors", s->tensors, half);
    write_tensors(c->dir, "model-00002-of-00002.safetensors", s->tensors + half, s->count - half);
    strbuf_puts(&index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = 0; i < s->count; i++) {
        strbuf_printf(&index, "%s\"%s\":\"%s\"", i ? "," : "", s->tensors[i].name,
                      i < half && i != moved ? "model-00001-of-00002.safetensors" : second_name);
    }
    strbuf_puts(&index, "}}");
    write_text(c->dir, "model.safetensors.index.json", index.data);
    strbuf_free(&index);
    safetensors_free(&s);
    char *single = path_join(c->dir, "model.safetensors");
    assert_int_equal(unlink(single), 0);
    free(single);
}

static void shards_hold_the_same_model(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[3], DEVICE_FENCED, 1);
    struct copy c = copy_open(golden_models[3]);
    struct policy *p = NULL;
    write_shards(&c, "model-00002-of-00002.safetensors", -1);
    assert_ok(policy_open(&p, c.dev, c.dir, DTYPE_F32, false));
    assert_same_weights(p, f.p);
    policy_free(&p);
    copy_close(&c);
    fixture_close(&f);
}

static void bad_indices_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int moved;
        const char *message;
    } cases[] = {
        {"model-00003-of-00003.safetensors", -1, "model-00003"},
        {"../model-00002-of-00002.safetensors", -1, "not a plain name"},
        {"/etc/passwd", -1, "not a plain name"},
        {"..", -1, "not a plain name"},
        {"", -1, "not a plain name"},
        {"model-00002-of-00002.safetensors", 3, "is not in model-00002"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct copy c = copy_open(golden_models[0]);
        write_shards(&c, cases[i].name, cases[i].moved);
        refused(&c, cases[i].message);
        copy_close(&c);
    }
    struct copy c = copy_open(golden_models[0]);
    write_shards(&c, "model-00002-of-00002.safetensors", -1);
    write_text(c.dir, "model.safetensors.index.json", "{\"weight_map\":[]}");
    refused(&c, "weight_map");
    write_text(c.dir, "model.safetensors.index.json",
               "{\"weight_map\":{\"lm_head.weight\":\"model-00001-of-00002.safetensors\"}}");
    refused(&c, "is not in the index");
    copy_close(&c);
}

static void a_shard_that_is_a_loop_of_links_is_refused(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[0]);
    write_shards(&c, "model-00002-of-00002.safetensors", -1);
    char *shard = path_join(c.dir, "model-00002-of-00002.safetensors");
    assert_int_equal(unlink(shard), 0);
    assert_int_equal(symlink("model-00002-of-00002.safetensors", shard), 0);
    refused(&c, "model-00002-of-00002.safetensors");
    free(shard);
    copy_close(&c);
}

// ---- weights in blocks of float8

enum { FP8_ROWS = 20, FP8_COLUMNS = 16 }; // neither divides all shapes of the model

// A file of tensors of any type, for which the program has no writer.
static void write_raw(const char *dir, const struct tensor *t, int count)
{
    struct strbuf header = {0}, bytes = {0};
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        strbuf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{", t[i].name,
                      tensor_dtype_name(t[i].dtype));
        for (int d = 0; d < t[i].rank; d++) {
            strbuf_printf(&header, "%s%lld", d ? "," : "", (long long)t[i].shape[d]);
        }
        strbuf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", at, at + t[i].size);
        at += t[i].size;
    }
    strbuf_putc(&header, '}');
    const uint64_t len = header.len;
    strbuf_append(&bytes, &len, sizeof len);
    strbuf_append(&bytes, header.data, header.len);
    for (int i = 0; i < count; i++) {
        strbuf_append(&bytes, t[i].data, t[i].size);
    }
    char *path = path_join(dir, "model.safetensors");
    assert_ok(file_write_atomic(path, bytes.data, bytes.len));
    free(path);
    strbuf_free(&header);
    strbuf_free(&bytes);
}

// What a code of E4M3 stands for, by its definition.
static float e4m3(uint8_t code)
{
    const int e = code >> 3 & 15, m = code & 7;
    const double x = e ? (1 + m / 8.0) * pow(2, e - 7) : m / 8.0 * pow(2, -6);
    return (float)(code & 128 ? -x : x);
}

struct quantised {
    struct safetensors *source;
    struct tensor tensors[512]; // weights, each followed by its scales where it has some
    float *exact[512];          // what a weight in float8 stands for; NULL: it is not in float8
    char names[512][128];
    int count;
};

// Codes are a function of place, scales of the block; products with them are what the block means.
static void quantise(struct quantised *q, const struct tensor *t)
{
    const int64_t rows = (t->shape[0] + FP8_ROWS - 1) / FP8_ROWS;
    const int64_t columns = (t->shape[1] + FP8_COLUMNS - 1) / FP8_COLUMNS;
    const size_t n = (size_t)tensor_count(t), blocks = (size_t)(rows * columns);
    uint8_t *codes = mem_alloc(n);
    float *scales = mem_floats(blocks), *exact = mem_floats(n);
    for (size_t b = 0; b < blocks; b++) {
        scales[b] = (float)(1e-4 * (1 + (double)(b % 7)) / 3);
    }
    for (int64_t i = 0; i < t->shape[0]; i++) {
        for (int64_t j = 0; j < t->shape[1]; j++) {
            const int64_t at = i * t->shape[1] + j;
            codes[at] = (uint8_t)((at * 37 + i) % 127 + (at % 3 == 0 ? 128 : 0)); // no NaN
            exact[at] = e4m3(codes[at]) * scales[i / FP8_ROWS * columns + j / FP8_COLUMNS];
        }
    }
    snprintf(q->names[q->count + 1], sizeof q->names[0], "%s_scale_inv", t->name);
    q->exact[q->count] = exact;
    q->tensors[q->count++] =
        (struct tensor){t->name, TENSOR_F8_E4M3, 2, {t->shape[0], t->shape[1]}, codes, n};
    q->tensors[q->count] = (struct tensor){q->names[q->count], TENSOR_F32, 2,
                                           {rows, columns},    scales,     blocks * sizeof(float)};
    q->count++;
}

// A golden model whose matrices in the layers are in float8, as DeepSeek-V3 is published.
static struct quantised *quantised_open(struct copy *c)
{
    struct quantised *q = mem_alloc0(sizeof *q);
    q->source = open_tensors(c->dir);
    for (int i = 0; i < q->source->count; i++) {
        const struct tensor *t = &q->source->tensors[i];
        if (t->rank == 2 && strstr(t->name, "_proj")) {
            quantise(q, t);
        } else {
            q->tensors[q->count++] = *t;
        }
    }
    struct strbuf text = {0};
    char *path = path_join(c->dir, "config.json");
    assert_ok(file_read(&text, path, 0, ERR_MODEL));
    text.len = (size_t)(strrchr(text.data, '}') - text.data);
    strbuf_printf(&text,
                  ",\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
                  "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[%d,%d]}}",
                  FP8_ROWS, FP8_COLUMNS);
    assert_ok(file_write_atomic(path, text.data, text.len));
    strbuf_free(&text);
    free(path);
    return q;
}

static void quantised_close(struct quantised *q)
{
    for (int i = 0; i < q->count; i++) {
        if (q->exact[i]) {
            free(q->exact[i]);
            free((void *)q->tensors[i].data);
            free((void *)q->tensors[i + 1].data);
        }
    }
    safetensors_free(&q->source);
    free(q);
}

static void blocks_of_float8_are_dequantised(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[2]);
    struct quantised *q = quantised_open(&c);
    struct policy *p = NULL;
    write_raw(c.dir, q->tensors, q->count);
    assert_ok(policy_open(&p, c.dev, c.dir, DTYPE_F32, false));
    assert_int_equal(p->arch.fp8_rows, FP8_ROWS);
    float *x = device_floats(c.dev, p->params.data, p->params.size);
    int seen = 0;
    for (int i = 0; i < p->params.num_tensors; i++) {
        const struct param_tensor *t = &p->params.tensors[i];
        for (int k = 0; k < q->count; k++) {
            if (q->exact[k] && !strcmp(q->tensors[k].name, t->name)) {
                assert_same_bits(t->name, x + t->offset, q->exact[k], t->size);
                seen++;
            }
        }
    }
    assert_true(seen > 100);
    free(x);
    policy_free(&p);
    quantised_close(q);
    copy_close(&c);
}

static void scales_that_are_missing_or_misshapen_are_named(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[2]);
    struct quantised *q = quantised_open(&c);
    int at = 0;
    while (!q->exact[at]) {
        at++;
    }
    struct tensor weight = q->tensors[at], *scale = &q->tensors[at + 1], whole = *scale;
    char text[256];
    scale->name = "elsewhere_scale_inv";
    write_raw(c.dir, q->tensors, q->count);
    snprintf(text, sizeof text, "%s: dtype F8_E4M3 without its scales, *_scale_inv [%lld,%lld]",
             weight.name, (long long)whole.shape[0], (long long)whole.shape[1]);
    refused(&c, text);
    refused(&c, "elsewhere_scale_inv: unexpected");
    *scale = whole;
    scale->shape[0] = whole.shape[0] * whole.shape[1];
    scale->shape[1] = 1;
    write_raw(c.dir, q->tensors, q->count);
    refused(&c, "_scale_inv: want [");
    *scale = whole;
    q->tensors[at].dtype = TENSOR_F8_E5M2;
    write_raw(c.dir, q->tensors, q->count);
    refused(&c, "dtype F8_E5M2 is not supported (F32, BF16, F16 and F8_E4M3 are)");
    q->tensors[at].dtype = TENSOR_F8_E4M3;
    *(float *)scale->data = INFINITY;
    write_raw(c.dir, q->tensors, q->count);
    refused(&c, "values are not finite");
    *(float *)scale->data = 1;
    *(uint8_t *)q->tensors[at].data = 0x7f;
    write_raw(c.dir, q->tensors, q->count);
    refused(&c, "holds nan at index 0 (1 of its");
    *(uint8_t *)q->tensors[at].data = 0;
    write_raw(c.dir, q->tensors, q->count);
    char *golden = golden_path(golden_models[2], "config.json"),
         *to = path_join(c.dir, "config.json");
    copy_file(golden, to); // without quantization_config
    refused(&c, "dtype F8_E4M3 needs \"weight_block_size\"");
    free(golden);
    free(to);
    quantised_close(q);
    copy_close(&c);
}

static void missing_misshapen_and_unexpected_tensors_are_listed_together(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[2]);
    struct safetensors *s = open_tensors(c.dir);
    struct tensor *t = mem_array0((size_t)s->count, sizeof *t);
    memcpy(t, s->tensors, (size_t)s->count * sizeof *t);
    for (int i = 0; i < s->count; i++) {
        if (!strcmp(t[i].name, "model.norm.weight")) {
            t[i].name = "model.normal.weight";
        } else if (!strcmp(t[i].name, "lm_head.weight")) {
            t[i].shape[0] = 80;
            t[i].shape[1] = 96;
        }
    }
    write_tensors(c.dir, "model.safetensors", t, s->count);
    refused(&c, "model.norm.weight: missing, want [48]");
    refused(&c, "lm_head.weight: want [160,48], have [80,96]");
    refused(&c, "model.normal.weight: unexpected");
    free(t);
    safetensors_free(&s);
    copy_close(&c);
}

static void faults_that_differ_in_numbers_alone_are_one_line(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[2]);
    write_tensors(c.dir, "model.safetensors", NULL, 0);
    refused(&c, "\n  model.embed_tokens.weight: missing, want [160,48]");
    refused(&c, "\n  model.layers.*.mlp.experts.*.down_proj.weight: missing, want [48,24] (32 of "
                "them)");
    assert_null(strstr(err_message(), "more kinds"));
    copy_close(&c);
}

static void prediction_layers_are_passed_over_when_config_counts_them(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[3]);
    struct safetensors *s = open_tensors(c.dir);
    struct tensor *t = mem_array0((size_t)s->count + 1, sizeof *t);
    struct policy *p = NULL;
    float x = 1;
    memcpy(t, s->tensors, (size_t)s->count * sizeof *t);
    t[s->count] = (struct tensor){"model.layers.3.eh_proj.weight", TENSOR_F32, 1, {1}, &x, 4};
    write_tensors(c.dir, "model.safetensors", t, s->count + 1);
    refused(&c, "model.layers.3.eh_proj.weight: unexpected");
    struct strbuf text = {0};
    char *path = path_join(c.dir, "config.json"), *at;
    assert_ok(file_read(&text, path, 0, ERR_MODEL));
    at = strstr(text.data, "\"num_nextn_predict_layers\": 0");
    assert_non_null(at);
    at[strlen("\"num_nextn_predict_layers\": ")] = '1';
    write_text(c.dir, "config.json", text.data);
    assert_ok(policy_open(&p, c.dev, c.dir, DTYPE_F32, false));
    assert_int_equal(p->arch.num_mtp_layers, 1);
    policy_free(&p);
    write_tensors(c.dir, "model.safetensors", t,
                  s->count); // config.json may count what is not there
    assert_ok(policy_open(&p, c.dev, c.dir, DTYPE_F32, false));
    assert_int_equal(p->arch.num_mtp_layers, 0);
    policy_free(&p);
    strbuf_free(&text);
    free(path);
    free(t);
    safetensors_free(&s);
    copy_close(&c);
}

// Writes bytes over the first element of a tensor in the file.
static void spoil(struct copy *c, const char *name, size_t index, float value)
{
    struct safetensors *s = open_tensors(c->dir);
    char *path = path_join(c->dir, "model.safetensors");
    size_t at = (size_t)((const uint8_t *)safetensors_find(s, name)->data - s->map.data);
    struct strbuf bytes = {0};
    assert_ok(file_read(&bytes, path, 0, ERR_MODEL));
    memcpy(bytes.data + at + index * sizeof value, &value, sizeof value);
    safetensors_free(&s);
    assert_ok(file_write_atomic(path, bytes.data, bytes.len));
    strbuf_free(&bytes);
    free(path);
}

static void weights_that_are_not_finite_are_refused_with_tensor_index_and_count(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[1]);
    spoil(&c, "model.layers.1.mlp.experts.10.up_proj.weight", 41, INFINITY);
    spoil(&c, "model.layers.1.mlp.experts.10.up_proj.weight", 7, NAN);
    refused(&c, "\"model.layers.1.mlp.experts.10.up_proj.weight\" holds nan at index 7 (2 of its "
                "1152 values");
    copy_close(&c);
}

static void weights_that_are_not_finite_are_counted_where_they_are_allowed(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[1]);
    struct policy *p = NULL;
    spoil(&c, "model.layers.1.mlp.experts.10.up_proj.weight", 41, INFINITY);
    spoil(&c, "model.norm.weight", 7, NAN);
    for (int read_only = 0; read_only < 2; read_only++) {
        const struct policy_source source = {
            .dir = c.dir, .allow_nonfinite = true, .read_only = read_only != 0};
        assert_ok(policy_open_source(&p, c.dev, &source, DTYPE_F32));
        assert_int_equal(p->nonfinite, 2);
        policy_free(&p);
    }
    copy_close(&c);
}

static void truncated_and_absent_files_are_refused(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[0]);
    char *path = path_join(c.dir, "model.safetensors");
    struct strbuf bytes = {0};
    assert_ok(file_read(&bytes, path, 0, ERR_MODEL));
    static const size_t cuts[] = {0, 7, 8, 200, 20000, 100001};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        assert_ok(file_write_atomic(path, bytes.data, cuts[i]));
        refused(&c, "model.safetensors");
    }
    assert_int_equal(unlink(path), 0);
    refused(&c, "model.safetensors");
    assert_int_equal(mkdir(path, 0777), 0);
    refused(&c, "model.safetensors");
    strbuf_free(&bytes);
    free(path);
    copy_close(&c);
}

static void a_config_that_is_absent_or_of_another_model_is_refused(void **state)
{
    (void)state;
    struct copy c = copy_open(golden_models[0]);
    write_text(c.dir, "config.json", "{\"model_type\": \"mamba\"}");
    refused(&c, "unknown architecture");
    write_text(c.dir, "config.json", "{\"model_type\": ");
    refused(&c, "config.json:1");
    char *path = path_join(c.dir, "config.json");
    assert_int_equal(unlink(path), 0);
    refused(&c, "config.json");
    free(path);
    copy_close(&c);
}

static void bad_tokens_and_positions_are_errors_of_the_data(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[0], DEVICE_FENCED, 1);
    struct pack pack = {0};
    float logprob;
    int tokens[] = {3, 160}, *longer = mem_alloc0(4097 * sizeof *longer);
    pack_sequence(&pack, tokens, 2, NULL, 0);
    struct policy_batch b = pack_batch(&pack);
    assert_int_equal(policy_forward(f.p, &b, false, &logprob, NULL), ERR_DATA);
    pack_clear(&pack);
    pack_sequence(&pack, tokens, 1, NULL, 0);
    pack_target(&pack, 0, -1, 1);
    b = pack_batch(&pack);
    assert_int_equal(policy_forward(f.p, &b, false, &logprob, NULL), ERR_DATA);
    pack_clear(&pack);
    pack_sequence(&pack, longer, 4097, NULL, 0);
    b = pack_batch(&pack);
    assert_int_equal(policy_forward(f.p, &b, false, &logprob, NULL), ERR_DATA);
    assert_non_null(strstr(err_message(), "max_position_embeddings 4096"));
    pack_free(&pack);
    free(longer);
    fixture_close(&f);
}

static void results_that_are_not_finite_are_numeric_errors(void **state)
{
    (void)state;
    struct fixture f = fixture_open(golden_models[0], DEVICE_FENCED, 1);
    struct policy_batch b = pack_batch(&f.next);
    float *logprob = mem_floats((size_t)b.num_targets);
    const float nan = NAN;
    const struct param *norm = params_find(&f.p->params, "model.norm.weight");
    device_put(f.dev, f.p->params.data + norm->offset, &nan, sizeof nan);
    assert_int_equal(policy_forward(f.p, &b, false, logprob, NULL), ERR_NUMERIC);
    free(logprob);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_the_weights_survives_load_and_save),
        cmocka_unit_test(a_value_head_is_added_as_zero_and_kept),
        cmocka_unit_test(new_weights_depend_on_seed_name_and_index_alone),
        cmocka_unit_test(shards_hold_the_same_model),
        cmocka_unit_test(bad_indices_are_refused),
        cmocka_unit_test(a_shard_that_is_a_loop_of_links_is_refused),
        cmocka_unit_test(blocks_of_float8_are_dequantised),
        cmocka_unit_test(scales_that_are_missing_or_misshapen_are_named),
        cmocka_unit_test(missing_misshapen_and_unexpected_tensors_are_listed_together),
        cmocka_unit_test(faults_that_differ_in_numbers_alone_are_one_line),
        cmocka_unit_test(prediction_layers_are_passed_over_when_config_counts_them),
        cmocka_unit_test(weights_that_are_not_finite_are_refused_with_tensor_index_and_count),
        cmocka_unit_test(weights_that_are_not_finite_are_counted_where_they_are_allowed),
        cmocka_unit_test(truncated_and_absent_files_are_refused),
        cmocka_unit_test(a_config_that_is_absent_or_of_another_model_is_refused),
        cmocka_unit_test(bad_tokens_and_positions_are_errors_of_the_data),
        cmocka_unit_test(results_that_are_not_finite_are_numeric_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
