// SPDX-License-Identifier: Apache-2.0
// Opens a model directory and saves it again, for tests/peers/check_transformers.py.
#include "base/error.h"
#include "base/team.h"
#include "policy/policy.h"
#include <stdio.h>

static int resave(struct team *team, const char *from, const char *to)
{
    struct device *dev = NULL;
    struct policy *policy = NULL;
    int rc = device_open(&dev, team, DEVICE_BEST);
    rc = rc ? rc : policy_open(&policy, dev, from, DTYPE_F32, false);
    rc = rc ? rc : policy_save(policy, to);
    policy_free(&policy);
    device_free(&dev);
    return rc;
}

int main(int argc, char **argv)
{
    struct team *team = NULL;
    if (argc != 3) {
        fprintf(stderr, "usage: peer_resave DIR OUT (which exists)\n");
        return 2;
    }
    int rc = team_open(&team, 1);
    rc = rc ? rc : resave(team, argv[1], argv[2]);
    if (rc)
        fprintf(stderr, "peer_resave: %s\n", err_message());
    team_close(&team);
    return rc;
}
