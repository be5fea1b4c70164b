// SPDX-License-Identifier: Apache-2.0
#include "rl/config_tree.h"

#include "base/error.h"
#include "base/file.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BASES = 8, MAX_FILE = 64 << 20 };

// ---- faults

void config_fault_text(struct config_tree *t, const char *lines)
{
    if (t->faults.data && strstr(t->faults.data, lines))
        return;
    strbuf_printf(&t->faults, "%s%s", t->num_faults ? "\n" : "", lines);
    t->num_faults++;
}

void config_fault(struct config_tree *t, const struct config_node *at, const char *fmt, ...)
{
    if (t->reading && at->inherited)
        return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    text[utf8_complete_prefix(text, strlen(text))] = 0;
    struct strbuf line = {0};
    strbuf_put_visible(&line, at->file, strlen(at->file));
    if (at->line > 0)
        strbuf_printf(&line, ":%d", at->line);
    strbuf_puts(&line, ": ");
    strbuf_put_visible(&line, text, strlen(text));
    config_fault_text(t, line.data);
    strbuf_free(&line);
}

// ---- nodes

int config_tree_parse(struct config_tree *t, const struct json_doc **out, const char *text,
                      size_t len, int flags, const char *name, int first_line)
{
    struct json_doc *doc = NULL;
    const int rc = json_parse(&doc, text, len, flags, name, first_line, ERR_CONFIG);
    if (rc != 0)
        return rc;
    t->docs = mem_realloc(t->docs, ((size_t)t->num_docs + 1) * sizeof *t->docs);
    t->docs[t->num_docs++] = doc;
    *out = doc;
    return 0;
}

// file must live as long as the tree; line 0 is kept for all that --set made.
static struct config_node *node_from_json(struct config_tree *t, const struct json_doc *doc,
                                          const struct json *v, const char *file, bool lines)
{
    struct config_node *n = arena_push0(&t->arena, sizeof *n);
    *n = (struct config_node){.key = json_key(v),
                              .file = file,
                              .line = lines ? json_line(doc, v) : 0,
                              .type = json_type(v),
                              .doc = doc,
                              .value = v};
    struct config_node **tail = &n->first;
    for (const struct json *c = json_first(v); c; c = json_next(c)) {
        *tail = node_from_json(t, doc, c, file, lines);
        tail = &(*tail)->next;
    }
    return n;
}

static struct config_node **find_slot(struct config_node *object, const char *key)
{
    struct config_node **slot = &object->first;
    while (*slot && strcmp((*slot)->key, key) != 0)
        slot = &(*slot)->next;
    return slot;
}

struct config_node *config_node_get(const struct config_node *object, const char *key)
{
    if (!object || object->type != JSON_OBJECT)
        return NULL;
    for (struct config_node *c = object->first; c; c = c->next)
        if (!strcmp(c->key, key))
            return c->type == JSON_NULL ? NULL : c;
    return NULL;
}

// What `over` holds replaces what `under` holds, member by member; takes both.
static struct config_node *amend(struct config_node *under, struct config_node *over)
{
    if (under->type != JSON_OBJECT || over->type != JSON_OBJECT) {
        over->next = under->next;
        return over;
    }
    for (struct config_node *c = over->first, *next; c; c = next) {
        next = c->next;
        c->next = NULL;
        struct config_node **slot = find_slot(under, c->key);
        *slot = *slot ? amend(*slot, c) : c;
    }
    return under;
}

static struct config_node *copy_node(struct config_tree *t, const struct config_node *n)
{
    struct config_node *copy = arena_push(&t->arena, sizeof *copy);
    *copy = *n;
    copy->inherited = true;
    copy->next = NULL;
    struct config_node **tail = &copy->first;
    for (const struct config_node *c = n->first; c; c = c->next) {
        *tail = copy_node(t, c);
        tail = &(*tail)->next;
    }
    return copy;
}

void config_node_inherit(struct config_tree *t, struct config_node *object,
                         const struct config_node *from)
{
    if (object->type != JSON_OBJECT || from->type != JSON_OBJECT)
        return;
    for (const struct config_node *c = from->first; c; c = c->next) {
        struct config_node **slot = find_slot(object, c->key);
        if (*slot)
            config_node_inherit(t, *slot, c);
        else
            *slot = copy_node(t, c);
    }
}

static void write_node(struct json_writer *w, const struct config_node *n, const char *file,
                       int *line)
{
    if (n->type != JSON_OBJECT && n->type != JSON_ARRAY) {
        json_put_value(w, n->doc, n->value);
        return;
    }
    const bool object = n->type == JSON_OBJECT;
    if (object)
        json_begin_object(w);
    else
        json_begin_array(w);
    for (const struct config_node *c = n->first; c; c = c->next) {
        for (; file && c->file == file && *line < c->line; ++*line)
            strbuf_putc(w->out, '\n');
        if (object)
            json_put_key(w, c->key);
        write_node(w, c, file, line);
    }
    if (object)
        json_end_object(w);
    else
        json_end_array(w);
}

void config_node_write(struct strbuf *out, const struct config_node *n, bool lines)
{
    struct json_writer w = {.out = out};
    int line = n->line;
    write_node(&w, n, lines ? n->file : NULL, &line);
}

// ---- files and the files that they amend

const char *config_tree_path(struct config_tree *t, const char *file, const char *path)
{
    size_t len = strlen(file);
    while (path[0] != '/' && len > 0) {
        while (len > 0 && file[len - 1] != '/')
            len--; // drop the last name,
        char *beside = arena_push(&t->arena, len + strlen(path) + 1);
        memcpy(beside, file, len);
        memcpy(beside + len, path, strlen(path) + 1);
        if (len > 0 && (file_exists(beside) || dir_exists(beside)))
            return beside;
        while (len > 0 && file[len - 1] == '/')
            len--; // and the slashes before it
    }
    return arena_strndup(&t->arena, path, strlen(path));
}

static int load_layer(struct config_tree *t, struct config_node **out, const char *name,
                      const char *text, size_t len, int depth);

// Puts what the file's "base" holds under the file's own root.
static int load_base(struct config_tree *t, struct config_node **root, int depth)
{
    struct config_node **slot = find_slot(*root, "$schema"); // for editors
    if (*slot)
        *slot = (*slot)->next;
    slot = find_slot(*root, "base");
    const struct config_node *base = *slot;
    if (!base)
        return 0;
    *slot = base->next;
    const char *path = json_string(base->value);
    if (!path)
        return err_set(ERR_CONFIG, "%s:%d: \"base\" is %s, expected the path of a config",
                       base->file, base->line, json_type_name(base->type));
    if (depth == MAX_BASES)
        return err_set(ERR_CONFIG, "%s:%d: more than %d files amend each other", base->file,
                       base->line, MAX_BASES);
    struct config_node *under = NULL;
    const int rc = load_layer(t, &under, config_tree_path(t, base->file, path), NULL, 0, depth + 1);
    if (rc != 0)
        return rc;
    const struct config_node place = **root;
    *root = amend(under, *root);
    (*root)->file = place.file;
    (*root)->line = place.line;
    return 0;
}

static int load_layer(struct config_tree *t, struct config_node **out, const char *name,
                      const char *text, size_t len, int depth)
{
    struct strbuf file = {0};
    const char *kept_name = arena_strndup(&t->arena, name, strlen(name));
    int rc = text ? 0 : file_read(&file, name, MAX_FILE, ERR_CONFIG);
    if (rc != 0)
        goto out;
    const char *from = text ? text : file.data ? file.data : "";
    size_t size = text ? len : file.len;
    if (size >= 3 && !memcmp(from, "\xef\xbb\xbf", 3)) { // a byte order mark, as some editors write
        from += 3;
        size -= 3;
    }
    const struct json_doc *doc = NULL;
    rc = config_tree_parse(t, &doc, from, size, JSON_COMMENTS, kept_name, 1);
    if (rc != 0)
        goto out;
    struct config_node *root = node_from_json(t, doc, json_root(doc), kept_name, true);
    if (root->type != JSON_OBJECT)
        rc = err_set(ERR_CONFIG, "%s:%d: the config is %s, expected an object", name, root->line,
                     json_type_name(root->type));
    if (rc == 0)
        rc = load_base(t, &root, depth);
    if (rc == 0)
        *out = root;
out:
    strbuf_free(&file);
    return rc;
}

// ---- --set path.to.key=VALUE

// The element of a list that a segment names: by its index, or by its "name", "kind" or "use".
static struct config_node **find_element(struct config_node *list, const char *segment)
{
    static const char *const names[] = {"name", "kind", "use"};
    long long index = -1, i = 0;
    str_to_int(segment, 0, 1000000, &index);
    struct config_node **slot = &list->first;
    for (; *slot; slot = &(*slot)->next, i++) {
        if (i == index)
            return slot;
        for (int k = 0; k < 3; k++) {
            const struct config_node *c = config_node_get(*slot, names[k]);
            const char *name = c ? json_string(c->value) : NULL;
            if (name && !strcmp(name, segment))
                return slot;
        }
    }
    return slot;
}

// VALUE as a node: JSON where it is JSON, else text.
static struct config_node *value_node(struct config_tree *t, const char *text, const char *origin)
{
    const struct json_doc *doc = NULL;
    if (config_tree_parse(t, &doc, text, strlen(text), 0, origin, 1) != 0) {
        struct strbuf quoted = {0};
        struct json_writer w = {.out = &quoted};
        json_put_string(&w, text);
        const int rc = config_tree_parse(t, &doc, quoted.data, quoted.len, 0, origin, 1);
        strbuf_free(&quoted);
        if (rc != 0)
            return NULL;
    }
    return node_from_json(t, doc, json_root(doc), origin, false);
}

static void apply_set(struct config_tree *t, const char *set)
{
    struct strbuf text = {0};
    strbuf_printf(&text, "--set %s", set);
    const char *origin = arena_strndup(&t->arena, text.data, text.len);
    strbuf_free(&text);
    const struct config_node place = {.file = origin};
    const char *equals = strchr(set, '=');
    struct config_node *leaf = equals ? value_node(t, equals + 1, origin) : NULL;
    if (!leaf || equals == set) {
        config_fault(t, &place, "expected path.to.key=VALUE");
        return;
    }
    char *path = arena_strndup(&t->arena, set, (size_t)(equals - set));
    struct config_node **slot = &t->root;
    for (char *segment = path, *next; segment; segment = next) {
        next = strchr(segment, '.');
        if (next)
            *next++ = 0;
        if (*slot && (*slot)->type == JSON_ARRAY) {
            slot = find_element(*slot, segment);
            if (!*slot) {
                config_fault(t, &place, "the list has no element \"%s\"", segment);
                return;
            }
            continue;
        }
        if (!*slot || (*slot)->type == JSON_NULL) { // sections that no file has
            struct config_node *made = arena_push0(&t->arena, sizeof *made);
            *made = (struct config_node){.key = *slot ? (*slot)->key : NULL,
                                         .file = origin,
                                         .type = JSON_OBJECT,
                                         .next = *slot ? (*slot)->next : NULL};
            *slot = made;
        }
        if ((*slot)->type != JSON_OBJECT) {
            config_fault(t, &place, "what stands before \"%s\" is %s", segment,
                         json_type_name((*slot)->type));
            return;
        }
        slot = find_slot(*slot, segment);
        if (!*slot) {
            struct config_node *made = arena_push0(&t->arena, sizeof *made);
            *made = (struct config_node){.key = segment, .file = origin, .type = JSON_NULL};
            *slot = made;
        }
    }
    leaf->key = (*slot)->key;
    leaf->next = (*slot)->next;
    *slot = leaf;
}

int config_tree_open(struct config_tree *t, const char *name, const char *text, size_t len,
                     const struct option_list *sets)
{
    const int rc = load_layer(t, &t->root, name, text, len, 0);
    if (rc != 0)
        return rc;
    for (int i = 0; sets && i < sets->count; i++)
        apply_set(t, sets->items[i]);
    return 0;
}

void config_tree_free(struct config_tree *t)
{
    for (int i = 0; i < t->num_docs; i++)
        json_free(&t->docs[i]);
    free(t->docs);
    strbuf_free(&t->faults);
    arena_free(&t->arena);
}
