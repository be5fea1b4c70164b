// SPDX-License-Identifier: Apache-2.0
#include "rl/stops.h"

#include <string.h>

struct stops stops_of(const struct policy *p, const struct tokenizer *t)
{
    const struct generation_config *g = &p->generation;
    struct stops s = {.count = g->num_stop_ids};
    memcpy(s.ids, g->stop_ids, sizeof s.ids);
    if (s.count == 0 && t != NULL && tokenizer_eos(t) >= 0)
        s.ids[s.count++] = tokenizer_eos(t);
    return s;
}
