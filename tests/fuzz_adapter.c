// SPDX-License-Identifier: Apache-2.0
// Input: an adapter_config.json. Either something is wrong with it and said, or its rank, scale and
// targets are usable.
#include "base/error.h"
#include "base/json.h"
#include "policy/adapter.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_doc *doc = NULL;
    if (json_parse(&doc, (const char *)data, size, 0, "adapter_config.json", 1, ERR_MODEL)) {
        return 0;
    }
    struct adapter_config c;
    struct tensor_report faults = {0};
    adapter_config_read(&c, doc, &faults);
    if (tensor_report_end(&faults, "faults:")) {
        check(strlen(err_message()) > strlen("faults:"));
    } else {
        check(c.r >= 1 && isfinite(c.scale) && c.num_targets > 0);
    }
    adapter_config_free(&c);
    json_free(&doc);
    return 0;
}
