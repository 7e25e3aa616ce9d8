// Every kind of traffic writes back what it read, fills what is only written, and touches nothing else. Mutations caught: a
// block or half of a chunk left out, an array written with another's values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/kernels/isa.h"
#include "runtime/kernels/traffic.h"

namespace strata::kernels {
namespace {

constexpr std::size_t kLine = 64;

// n elements from the start of a cache line, between bytes that nobody may change.
template <class T>
class Array {
 public:
  explicit Array(std::size_t n) : bytes_(n * sizeof(T)), memory_(bytes_ + 3 * kLine, kGuard) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(memory_.data()) % kLine;
    offset_ = 2 * kLine - misaligned;
  }
  T* data() { return reinterpret_cast<T*>(memory_.data() + offset_); }
  const std::vector<unsigned char>& memory() const { return memory_; }
  bool guards_intact() const {
    const auto is_guard = [](unsigned char byte) { return byte == kGuard; };
    const auto begin = memory_.begin() + static_cast<std::ptrdiff_t>(offset_);
    return std::all_of(memory_.begin(), begin, is_guard) &&
           std::all_of(begin + static_cast<std::ptrdiff_t>(bytes_), memory_.end(), is_guard);
  }

 private:
  static constexpr unsigned char kGuard = 0x5a;
  std::size_t bytes_, offset_ = 0;
  std::vector<unsigned char> memory_;
};

TEST(UpdateTrafficTest, WritesBackWhatItReadWithEveryInstructionSet) {
  const Isa before = active_isa();
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    ASSERT_TRUE(set_isa(isa).ok());
    for (const UpdateStores stores : available_update_stores()) {
      for (const std::size_t n : {0, 32, 64, 65536, 65536 + 32}) {
        for (const bool with16 : {false, true}) {
          SCOPED_TRACE(std::string(to_string(isa)) + ", " + to_string(stores) + ", n " + std::to_string(n));
          Array<float> a(n), b(n), c(n), read(n);
          Array<bf16> written(n);
          float next = 1.0f;
          for (Array<float>* array : {&a, &b, &c, &read})
            for (std::size_t i = 0; i < n; ++i) array->data()[i] = next++;
          const std::vector<unsigned char> all[] = {a.memory(), b.memory(), c.memory(), read.memory()};
          move_update_traffic(stores,
                              {.updated = {a.data(), b.data(), c.data()},
                               .read = read.data(),
                               .written = with16 ? written.data() : nullptr,
                               .n = static_cast<std::int64_t>(n)},
                              pool);
          EXPECT_TRUE(a.memory() == all[0] && b.memory() == all[1] && c.memory() == all[2] && read.memory() == all[3]);
          EXPECT_TRUE(written.guards_intact());
          for (std::size_t chunk = 0; chunk < n; chunk += 32) {
            const auto* bytes = reinterpret_cast<const char*>(written.data() + chunk);
            const bool filled = std::memcmp(bytes, a.data() + chunk, 64) == 0;
            ASSERT_EQ(filled, with16) << "chunk at " << chunk;
          }
        }
      }
    }
  }
  ASSERT_TRUE(set_isa(before).ok());
}

}  // namespace
}  // namespace strata::kernels
