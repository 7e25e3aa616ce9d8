#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// `strata bench step`: whole training steps of one of bench_models.h, on one rank, with random tokens. See bench.h.
void add_bench_step(CLI::App& bench, std::function<int()>& action);

}  // namespace strata
