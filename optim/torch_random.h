// The random numbers of PyTorch on a CPU (std::mt19937 and what ATen makes of its draws), for parity with programs that use it,
// and the chain of seeds of the authors' APOLLO. Of a seed only the low 32 bits count. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace strata {

// torch.randn of a generator seeded with `seed`. Within 1e-6 of PyTorch, whose vectorised logarithm and sines differ in last
// bits.
void torch_randn(std::uint64_t seed, std::span<float> out);
// torch.randperm of such a generator, exactly.
std::vector<std::int64_t> torch_randperm(std::uint64_t seed, std::int64_t n);
// The seed of APOLLO's next projection after one made with `seed`: the last of 15 draws of randint(0, 2^63 - 1).
std::uint64_t next_apollo_seed(std::uint64_t seed);

}  // namespace strata
