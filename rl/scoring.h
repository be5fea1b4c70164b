// SPDX-License-Identifier: Apache-2.0
// The rewards of a stage: for each source of the config the composition of scorers that judges its
// completions, joined to the sandbox and the process reward model. Used by one thread at a time.
#ifndef RL_SCORING_H
#define RL_SCORING_H

#include "policy/policy.h"
#include "reward/reward.h"
#include "rl/config.h"
#include "sandbox/sandbox.h"

struct scoring {
    int num_sources;                     // as the config's data
    struct reward **reward;              // [num_sources]
    const struct config_reward **config; // [num_sources] what it was made from
    const struct config_component **
        *component; // [num_sources][...] the config row of each component
};

// sandbox NULL: none is open; prm NULL: components that use it are left out. Errors: ERR_CONFIG.
int scoring_open(struct scoring **out, const struct config *c, const struct config_rewards *rewards,
                 struct sandbox *sandbox, struct policy *prm);
void scoring_close(struct scoring **s);

// The sandbox that programs are run in; tier: the weakest that will do, by its name; slots:
// programs that run at once, 0 the default. ERR_CONFIG, ERR_ENV.
int scoring_open_sandbox(struct sandbox **out, const char *tier, int slots);

// Whether some source's reward runs programs, or reads the process reward model.
bool scoring_needs(const struct config *c, const struct config_rewards *rewards, const char *use);

// Index of the first component of a source that uses the scorer; -1: none.
int scoring_component(const struct scoring *s, int source, const char *use);

// Index of the component that says whether a completion is right: of steps, code and answer the
// first that the source's reward has; -1: none.
int scoring_verdict(const struct scoring *s, int source);

#endif
