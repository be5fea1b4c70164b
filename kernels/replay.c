// SPDX-License-Identifier: Apache-2.0
#include "kernels/replay.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT = 8 };

struct sequence {
    void *key; // [bytes]; NULL: an empty place
    size_t bytes;
    void *record; // NULL: launched once, and not recorded yet
    long used;    // the call that used it last
};

struct replay {
    struct device *dev;
    struct sequence kept[KEPT];
    long calls, replays;
};

struct replay *replay_open(struct device *dev)
{
    struct replay *r = mem_alloc0(sizeof *r);
    r->dev = dev;
    return r;
}

static void forget(const struct replay *r, struct sequence *s)
{
    if (s->record)
        r->dev->recorder->release(r->dev, s->record);
    free(s->key);
    *s = (struct sequence){0};
}

void replay_free(struct replay **r)
{
    if (!r || !*r)
        return;
    for (int i = 0; i < KEPT; i++)
        forget(*r, &(*r)->kept[i]);
    free(*r);
    *r = NULL;
}

long replay_count(const struct replay *r) { return r->replays; }

static struct sequence *find(struct replay *r, const void *key, size_t bytes)
{
    for (int i = 0; i < KEPT; i++) {
        struct sequence *s = &r->kept[i];
        if (s->key && s->bytes == bytes && memcmp(s->key, key, bytes) == 0)
            return s;
    }
    return NULL;
}

// A place for a key that is not kept.
static struct sequence *take_place(struct replay *r, const void *key, size_t bytes)
{
    struct sequence *s = &r->kept[0];
    for (int i = 1; i < KEPT; i++)
        if (r->kept[i].used < s->used)
            s = &r->kept[i];
    forget(r, s);
    s->key = memcpy(mem_alloc(bytes), key, bytes);
    s->bytes = bytes;
    return s;
}

static int record(const struct replay *r, struct sequence *s, int (*launch)(void *arg), void *arg)
{
    const struct device_recorder *recorder = r->dev->recorder;
    int rc = recorder->begin(r->dev);
    if (rc != 0)
        return rc;
    rc = launch(arg);
    const int rc_end = recorder->end(r->dev, rc == 0 ? &s->record : NULL);
    return rc != 0 ? rc : rc_end;
}

int replay_run(struct replay *r, const void *key, size_t bytes, int (*launch)(void *arg), void *arg)
{
    if (!r->dev->recorder)
        return launch(arg);
    struct sequence *s = find(r, key, bytes);
    const bool again = s && s->used == r->calls;
    if (!s)
        s = take_place(r, key, bytes);
    s->used = ++r->calls;
    if (s->record && !r->dev->recorder->is_usable(r->dev, s->record)) {
        r->dev->recorder->release(r->dev, s->record);
        s->record = NULL;
    }
    if (!s->record && !again)
        return launch(arg);
    const int rc = s->record ? 0 : record(r, s, launch, arg);
    if (rc != 0)
        return rc;
    r->replays++;
    return r->dev->recorder->launch(r->dev, s->record);
}
