// Two normal values from two random words, written once over the operations of a processor or a GPU: as update_rules.h of
// optim/. Box and Muller (1958) in f32, each operation rounded once, with polynomials of our own (relative errors: log1p 3e-8,
// sine 3e-9, cosine 6e-11). Ops has f32 add, sub, mul, fma, sqrt, and bits(), value() between f32 and its bits.
#pragma once

#include <cstdint>

#include "runtime/host_device.h"

namespace strata::kernels {

// Philox4x32-10 (runtime/rng.h). A template, so that no code for one processor is linked into another's: Local is a type of the
// including file.
template <class Local>
struct PhiloxRule {
  static constexpr int kRounds = 10;
  STRATA_HOST_DEVICE static void round(std::uint32_t& c0, std::uint32_t& c1, std::uint32_t& c2, std::uint32_t& c3,
                                       std::uint32_t key0, std::uint32_t key1) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c3 = static_cast<std::uint32_t>(p0);
  }
  STRATA_HOST_DEVICE static void next_keys(std::uint32_t& key0, std::uint32_t& key1) {
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
};

template <class Ops>
struct NormalRule {
  // -2 log(u) of u in [2^-32, 1].
  STRATA_HOST_DEVICE static float radius_square(float u) {
    const std::uint32_t bits = Ops::bits(u);
    const std::int32_t exponent =
        static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;  // u / 2^exponent in [sqrt(1/2), sqrt(2))
    const float f = Ops::sub(Ops::value(bits - (static_cast<std::uint32_t>(exponent) << 23)), 1.0f);
    float p = 0x1.65c776p-4f;
    p = Ops::fma(p, f, -0x1.250512p-3f);
    p = Ops::fma(p, f, 0x1.31855ap-3f);
    p = Ops::fma(p, f, -0x1.535d24p-3f);
    p = Ops::fma(p, f, 0x1.98d2bap-3f);
    p = Ops::fma(p, f, -0x1.00049ap-2f);
    p = Ops::fma(p, f, 0x1.5556f4p-2f);
    p = Ops::fma(p, f, -0x1.fffffap-2f);
    const float log1p = Ops::fma(Ops::mul(f, f), p, f);
    return Ops::fma(static_cast<float>(exponent), -0x1.62e430p+0f, Ops::mul(-2.0f, log1p));
  }

  STRATA_HOST_DEVICE static void pair(std::uint32_t radius_word, std::uint32_t angle_word, float& a, float& b) {
    const float drawn = static_cast<float>(static_cast<std::int32_t>(radius_word >> 1));
    const float radius = Ops::sqrt(radius_square(Ops::mul(Ops::add(drawn, 0.5f), 0x1p-31f)));
    // The angle in quarters of a turn: which one, and [-1/2, 1/2) of it.
    const std::uint32_t quarter = angle_word >> 30;
    const std::int32_t rest = static_cast<std::int32_t>(angle_word & 0x3fffffffu) - 0x20000000;
    const float t = Ops::mul(static_cast<float>(rest), 0x1p-30f), z = Ops::mul(t, t);
    float s = -0.004601658f;
    s = Ops::fma(s, z, 0.07968003f);
    s = Ops::fma(s, z, -0.6459635f);
    s = Ops::fma(s, z, 1.5707964f);
    float c = 0.000903363f;
    c = Ops::fma(c, z, -0.020859936f);
    c = Ops::fma(c, z, 0.25366917f);
    c = Ops::fma(c, z, -1.2337005f);
    c = Ops::fma(c, z, 1.0f);
    const std::uint32_t sine = Ops::bits(Ops::mul(s, t)), cosine = Ops::bits(c);
    const std::uint32_t swap = (sine ^ cosine) & (0u - (quarter & 1u));
    a = Ops::mul(radius, Ops::value(cosine ^ swap ^ ((quarter ^ quarter >> 1) << 31)));
    b = Ops::mul(radius, Ops::value(sine ^ swap ^ (quarter >> 1 << 31)));
  }
};

}  // namespace strata::kernels
