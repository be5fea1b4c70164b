// SPDX-License-Identifier: Apache-2.0
#include "rl/dataset_columns.h"

#include "base/error.h"
#include "base/str.h"
#include "rl/games.h"

#include <limits.h>
#include <math.h>
#include <string.h>

// Names of a column, the best first; NULL at the end. The first is ours: a value of another type
// there is an error, while under the others it belongs to somebody else's format and is passed
// over.
static const char *const id_names[] = {"id", "task_id", "unique_id", "ID", "question_id", NULL};
static const char *const source_names[] = {"source", "data_source", NULL};
static const char *const prompt_names[] = {"prompt", "question", "problem", "instruction",
                                           "query",  "input",    "text",    NULL};
static const char *const answer_names[] = {
    "answer", "final_answer", "ground_truth", "gold", "Answer", "target", NULL};
static const char *const completion_names[] = {
    "completion", "response", "canonical_solution", "code", "program", "solution", NULL};

static int fault(const struct dataset_row *row, const char *column, const char *expected,
                 const struct json *found)
{
    return err_set(ERR_DATA, "%s:%d: \"%s\" must be %s, found %s", row->file, row->line, column,
                   expected, json_type_name(json_type(found)));
}

static const struct json *column(const struct dataset_row *row, const char *name)
{
    const struct json *v = json_get(row->object, name);
    return json_type(v) == JSON_NULL ? NULL : v;
}

static const char *copy(struct arena *a, const char *s) { return arena_strndup(a, s, strlen(s)); }

// A string, or a number as it is written; NULL for other types.
static const char *text_of(struct arena *a, const struct dataset_row *row, const struct json *v)
{
    if (json_type(v) == JSON_STRING)
        return copy(a, json_string(v));
    if (json_type(v) != JSON_NUMBER)
        return NULL;
    struct strbuf number = {0};
    json_put_value(&(struct json_writer){.out = &number}, row->doc, v);
    const char *text = arena_strndup(a, number.data, number.len);
    strbuf_free(&number);
    return text;
}

// The text of the first column that has one; *out stays NULL when there is none.
static int read_text(const char **out, struct arena *a, const struct dataset_row *row,
                     const char *const *names)
{
    for (int i = 0; names[i] && !*out; i++) {
        const struct json *v = column(row, names[i]);
        *out = text_of(a, row, v);
        if (v && !*out && i == 0)
            return fault(row, names[i], "text or a number", v);
    }
    return 0;
}

// ---- conversations

static const struct json *conversation_of(const struct dataset_row *row)
{
    const struct json *messages = column(row, "messages"), *prompt = column(row, "prompt");
    if (json_type(messages) == JSON_ARRAY)
        return messages;
    return json_type(prompt) == JSON_ARRAY ? prompt : NULL;
}

static const char *role_of(const struct json *message)
{
    return json_string(json_get(message, "role"));
}

static bool message_is(const struct json *message, const char *role)
{
    return role_of(message) && strcmp(role_of(message), role) == 0 &&
           json_string(json_get(message, "content"));
}

// What the user said last, and the assistant's answer at the end.
static int read_messages(struct problem *out, struct arena *a, const struct dataset_row *row,
                         const struct json *messages)
{
    const char *asked = "", *answer = NULL;
    int i = 0;
    for (const struct json *m = json_first(messages); m; m = json_next(m), i++) {
        if (!role_of(m))
            return err_set(ERR_DATA,
                           "%s:%d: message %d must be an object with a text \"role\", found %s",
                           row->file, row->line, i, json_type_name(json_type(m)));
        if (message_is(m, "user"))
            asked = json_string(json_get(m, "content"));
        answer = message_is(m, "assistant") ? json_string(json_get(m, "content")) : NULL;
    }
    if (i == 0)
        return err_set(ERR_DATA, "%s:%d: a conversation has no messages", row->file, row->line);
    out->prompt = copy(a, asked);
    if (answer && i > 1)
        out->completion = copy(a, answer);
    return 0;
}

// TRL's "tools": an array, or its JSON as text.
static int put_tools(struct json_writer *w, const struct dataset_row *row)
{
    const struct json *tools = column(row, "tools");
    const char *text = json_string(tools);
    struct json_doc *doc = NULL;
    int rc = 0;
    if (!tools)
        return 0;
    if (text)
        rc = json_parse(&doc, text, strlen(text), 0, row->file, row->line, ERR_DATA);
    const struct json *v = doc ? json_root(doc) : tools;
    if (rc == 0 && json_type(v) != JSON_ARRAY)
        rc = fault(row, "tools", "an array", v);
    if (rc == 0) {
        json_put_key(w, "tools");
        json_put_value(w, doc ? doc : row->doc, v);
    }
    json_free(&doc);
    return rc;
}

static int put_variables(struct json_writer *w, const struct dataset_row *row)
{
    const struct json *v = column(row, "chat_template_kwargs");
    if (v && json_type(v) != JSON_OBJECT)
        return fault(row, "chat_template_kwargs", "an object", v);
    if (v) {
        json_put_key(w, "variables");
        json_put_value(w, row->doc, v);
    }
    return 0;
}

// The conversation as rl/chat.h takes it; a completion that is a message is its last.
static int read_conversation(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *messages = conversation_of(row), *turns = column(row, "completion");
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    if (!messages)
        return 0;
    json_begin_object(&w);
    json_put_key(&w, "messages");
    json_begin_array(&w);
    for (const struct json *m = json_first(messages); m; m = json_next(m))
        json_put_value(&w, row->doc, m);
    if (json_type(turns) == JSON_ARRAY)
        json_put_value(&w, row->doc, json_first(turns));
    json_end_array(&w);
    int rc = put_tools(&w, row);
    rc = rc ? rc : put_variables(&w, row);
    if (rc == 0) {
        json_end_object(&w);
        out->conversation = arena_strndup(a, text.data, text.len);
    }
    strbuf_free(&text);
    return rc;
}

static int read_prompt(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    if (conversation_of(row))
        return read_messages(out, a, row, conversation_of(row));
    const char *body = json_string(column(row, "Body")); // SVAMP
    const char *question = json_string(column(row, "Question"));
    if (body && question) {
        struct strbuf both = {0};
        strbuf_printf(&both, "%s%s %s", body,
                      strchr(".?!", body[0] ? body[strlen(body) - 1] : 0) ? "" : ".", question);
        out->prompt = arena_strndup(a, both.data, both.len);
        strbuf_free(&both);
        return 0;
    }
    return read_text(&out->prompt, a, row, prompt_names);
}

// ---- answers

static int read_answer(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    int rc = read_text(&out->answer, a, row, answer_names);
    if (!rc && !out->answer) // verl
        out->answer = text_of(a, row, json_get(column(row, "reward_model"), "ground_truth"));
    if (!rc && !out->answer) // MATH's boxed answer stands in its solution
        out->answer = text_of(a, row, column(row, "solution"));
    return rc;
}

static int read_completion(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *turns = column(row, "completion"); // TRL: [{"role": "assistant", ...}]
    if (json_type(turns) == JSON_ARRAY) {
        if (json_count(turns) != 1 || !message_is(json_first(turns), "assistant"))
            return fault(row, "completion", "text or one message of the assistant", turns);
        out->completion = copy(a, json_string(json_get(json_first(turns), "content")));
        return 0;
    }
    if (!out->completion) {
        const int rc = read_text(&out->completion, a, row, completion_names);
        if (rc)
            return rc;
    }
    // GSM8K's answer is the worked solution, with the result behind its last "####".
    if (!out->completion && out->answer && strstr(out->answer, "\n####"))
        out->completion = out->answer;
    return 0;
}

// ---- tests, as JSON text in one of the three forms of CLI.md

static const char *quoted(struct arena *a, const struct strbuf *source)
{
    struct strbuf json = {0};
    json_put_text(&(struct json_writer){.out = &json}, source->data, source->len);
    const char *text = arena_strndup(a, json.data, json.len);
    strbuf_free(&json);
    return text;
}

static int put_lines(struct strbuf *out, const struct dataset_row *row, const char *name)
{
    const struct json *list = column(row, name);
    if (list && json_type(list) != JSON_ARRAY)
        return fault(row, name, "an array of lines", list);
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        if (!json_string(v))
            return fault(row, name, "an array of lines", v);
        strbuf_printf(out, "%s\n", json_string(v));
    }
    return 0;
}

// MBPP: imports and set-up, then one assert each.
static int read_test_list(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    struct strbuf source = {0};
    const char *set_up = json_string(column(row, "test_setup_code"));
    int rc = put_lines(&source, row, "test_imports");
    if (set_up && *set_up)
        strbuf_printf(&source, "%s\n", set_up);
    if (!rc)
        rc = put_lines(&source, row, "test_list");
    if (!rc)
        out->tests = quoted(a, &source);
    strbuf_free(&source);
    return rc;
}

static int read_tests(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *tests = column(row, "tests");
    const char *test = json_string(column(row, "test"));
    const char *entry = json_string(column(row, "entry_point"));
    struct strbuf text = {0};
    if (tests) {
        json_put_value(&(struct json_writer){.out = &text}, row->doc, tests);
        out->tests = arena_strndup(a, text.data, text.len);
    } else if (column(row, "test_list")) {
        return read_test_list(out, a, row);
    } else if (test && entry) { // HumanEval: test defines check(candidate)
        strbuf_printf(&text, "%s\n\ncheck(%s)\n", test, entry);
        out->tests = quoted(a, &text);
    }
    strbuf_free(&text);
    return 0;
}

// ---- steps and their labels

static int read_steps(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const char *name = column(row, "steps") ? "steps" : "completions"; // TRL's name
    const struct json *list = column(row, name);
    if (!list)
        return 0;
    if (json_type(list) != JSON_ARRAY)
        return fault(row, name, "an array of steps", list);
    const char **steps = ARENA_ARRAY(a, const char *, json_count(list) + 1);
    struct strbuf joined = {0};
    int n = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v), n++) {
        const char *text = json_string(json_type(v) == JSON_OBJECT ? json_get(v, "text") : v);
        if (!text) {
            strbuf_free(&joined);
            return fault(row, name, "an array of texts, or of objects with \"text\"", v);
        }
        steps[n] = copy(a, text);
        strbuf_printf(&joined, "%s%s", n ? "\n" : "", text);
    }
    out->steps = steps;
    out->num_steps = n;
    if (!out->completion)
        out->completion = arena_strndup(a, n ? joined.data : "", joined.len);
    strbuf_free(&joined);
    return 0;
}

static int read_labels(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *list = column(row, "labels");
    if (!list || !out->steps)
        return 0;
    if (json_type(list) != JSON_ARRAY || json_count(list) != out->num_steps)
        return err_set(ERR_DATA, "%s:%d: \"labels\" must be an array of %d, one a step", row->file,
                       row->line, out->num_steps);
    float *labels = ARENA_ARRAY(a, float, out->num_steps + 1);
    int n = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v), n++) {
        double value = (double)NAN;
        bool right = false;
        if (json_bool(v, &right))
            value = right;
        else if (json_type(v) != JSON_NULL && (!json_double(v, &value) || value < 0 || value > 1))
            return fault(row, "labels", "true, false, null or numbers of 0..1", v);
        labels[n] = (float)value;
    }
    out->labels = labels;
    return 0;
}

// ProcessBench: the index of the first wrong step, -1 when there is none; what follows it was not
// judged.
static void read_first_wrong(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    int64_t wrong = -1;
    if (!out->steps || out->labels ||
        !json_int(row->doc, column(row, "label"), -1, out->num_steps - 1, &wrong))
        return;
    float *labels = ARENA_ARRAY(a, float, out->num_steps + 1);
    for (int i = 0; i < out->num_steps; i++)
        labels[i] = wrong < 0 || i < wrong ? 1 : i == wrong ? 0 : (float)NAN;
    out->labels = labels;
}

// ---- tokens

static int read_integers(int *out, const struct dataset_row *row, const char *name,
                         const struct json *list, int hi)
{
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        int64_t value;
        if (!json_int(row->doc, v, 0, hi, &value))
            return err_set(ERR_DATA, "%s:%d: \"%s\" must hold whole numbers of 0..%d", row->file,
                           row->line, name, hi);
        *out++ = (int)value;
    }
    return 0;
}

static int read_loss_mask(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *list = column(row, "loss_mask");
    if (!list)
        return 0;
    if (json_type(list) != JSON_ARRAY || json_count(list) != out->num_tokens)
        return err_set(ERR_DATA, "%s:%d: \"loss_mask\" must be an array of %d, one a token",
                       row->file, row->line, out->num_tokens);
    int *bits = ARENA_ARRAY(a, int, out->num_tokens);
    const int rc = read_integers(bits, row, "loss_mask", list, 1);
    unsigned char *mask = arena_push0(a, (size_t)out->num_tokens);
    for (int i = 0; i < out->num_tokens; i++)
        mask[i] = (unsigned char)bits[i];
    out->loss_mask = mask;
    return rc;
}

static int read_tokens(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    const struct json *list = column(row, "tokens");
    if (json_type(list) != JSON_ARRAY || json_count(list) == 0)
        return fault(row, "tokens", "an array of ids, at least one", list);
    int *tokens = ARENA_ARRAY(a, int, json_count(list));
    int rc = read_integers(tokens, row, "tokens", list, INT_MAX);
    out->tokens = tokens;
    out->num_tokens = json_count(list);
    if (!rc)
        rc = read_loss_mask(out, a, row);
    const struct json *prompt = column(row, "prompt_tokens");
    int64_t learned_from = 0;
    if (!rc && prompt && !json_int(row->doc, prompt, 0, out->num_tokens, &learned_from))
        rc = err_set(ERR_DATA, "%s:%d: \"prompt_tokens\" must be a whole number of 0..%d",
                     row->file, row->line, out->num_tokens);
    out->prompt_tokens = (int)learned_from;
    return rc;
}

// ---- the row

static int fault_nothing_to_ask(const struct dataset_row *row)
{
    struct strbuf list = {0};
    for (const struct json *v = json_first(row->object); v; v = json_next(v)) {
        strbuf_puts(&list, list.len ? ", \"" : "\"");
        strbuf_put_visible(&list, json_key(v), strlen(json_key(v)));
        strbuf_putc(&list, '"');
    }
    err_set(ERR_DATA,
            "%s:%d: no \"prompt\" (nor messages, question, problem, instruction, query, input, "
            "text, tokens); its columns are %s",
            row->file, row->line, list.len ? list.data : "none");
    strbuf_free(&list);
    return ERR_DATA;
}

// A numbers puzzle states itself; only our own columns add to it.
static int read_puzzle(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    static const char *const names[] = {"completion", "response", NULL};
    const int rc = games_read(out, a, row->doc, row->object);
    if (rc)
        return err_set(rc, "%s: %s", row->file, err_message());
    return read_text(&out->completion, a, row, names);
}

static int read_question(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    int rc = read_prompt(out, a, row);
    if (!rc)
        rc = read_answer(out, a, row);
    if (!rc)
        rc = read_completion(out, a, row);
    if (!rc)
        rc = read_conversation(out, a, row);
    if (!rc)
        rc = read_tests(out, a, row);
    return rc;
}

int dataset_columns(struct problem *out, struct arena *a, const struct dataset_row *row)
{
    if (json_type(row->object) != JSON_OBJECT)
        return err_set(ERR_DATA, "%s:%d: a row must be an object, found %s", row->file, row->line,
                       json_type_name(json_type(row->object)));
    const bool puzzle = json_type(column(row, "nums")) == JSON_ARRAY && !column(row, "prompt");
    int rc = puzzle ? read_puzzle(out, a, row) : read_question(out, a, row);
    if (!rc)
        rc = read_steps(out, a, row);
    if (!rc)
        rc = read_labels(out, a, row);
    if (!rc)
        read_first_wrong(out, a, row);
    if (!rc && !out->prompt && column(row, "tokens"))
        rc = read_tokens(out, a, row);
    if (!rc && !out->prompt && !out->tokens && !out->completion)
        rc = fault_nothing_to_ask(row);
    out->id = out->source = NULL;
    if (!rc)
        rc = read_text(&out->source, a, row, source_names);
    if (!rc)
        rc = read_text(&out->id, a, row, id_names);
    int64_t sample = -1;
    json_int(row->doc, column(row, "sample"), 0, INT_MAX, &sample);
    out->sample = (int)sample;
    out->line = row->line;
    return rc;
}
