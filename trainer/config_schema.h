// The keys of the training configuration. Internal to trainer/config.
#pragma once

#include "runtime/config.h"
#include "trainer/config.h"

namespace strata {

// Adds every key to `schema`, bound to the fields of `config`, which must outlive it.
void describe(ConfigSchema& schema, Config& config);

}  // namespace strata
