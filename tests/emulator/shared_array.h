// Shared memory as kernels see it on the emulator: every element access is checked, and says where it was made.
#pragma once

#include <cstring>
#include <source_location>
#include <string>
#include <type_traits>

#include "tests/emulator/block.h"

namespace strata::gpu_emulated {

// An index and the place in the source that used it.
struct Index {
  int value;
  std::source_location where;
  Index(int i, std::source_location at = std::source_location::current())
      : value(i), where(at) {}  // NOLINT: implicit by design
};

// What indexing a shared array gives. Only usable at once, as on the device, where `auto x = shared[i]` is a copy: a kept one
// could be neither read nor written, and does not compile.
template <class T>
class SharedElement {
 public:
  SharedElement(std::size_t offset, std::source_location where) : offset_(offset), where_(where) {}
  SharedElement(const SharedElement&) = delete;

  operator T() const&& { return load(); }  // NOLINT: implicit by design
  void operator=(T value) && { store(value); }
  void operator=(SharedElement&& other) && { store(other.load()); }
  void operator+=(T value) && { store(static_cast<T>(load() + value)); }
  void operator-=(T value) && { store(static_cast<T>(load() - value)); }
  void operator*=(T value) && { store(static_cast<T>(load() * value)); }
  void operator&() const = delete;

 private:
  T load() const {
    T value;
    std::memcpy(static_cast<void*>(&value), running_block->read_shared(offset_, sizeof(T), where_), sizeof(T));
    return value;
  }
  void store(const T& value) const { std::memcpy(running_block->write_shared(offset_, sizeof(T), where_), &value, sizeof(T)); }

  std::size_t offset_;
  std::source_location where_;
};

template <class T>
class SharedArray {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % Shadow::kCell == 0);

 public:
  SharedArray() = default;
  SharedArray(int byte_offset, int count) : offset_(static_cast<std::size_t>(byte_offset)), count_(count) {}

  SharedElement<T> operator[](Index i) const { return {place(i.value, 1, i.where), i.where}; }
  // Bytes from the beginning of shared memory to element i, from where on `elements` are in range.
  std::size_t place(int i, int elements, std::source_location where) const {
    if (i < 0 || i > count_ - elements) [[unlikely]]
      fail_range(i, elements, where);
    return offset_ + static_cast<std::size_t>(i) * sizeof(T);
  }
  // The same for an access of 16 bytes at once.
  std::size_t place_of_16_bytes(int i, std::source_location where) const {
    const std::size_t offset = place(i, 16 / static_cast<int>(sizeof(T)), where);
    if (offset % 16 != 0) [[unlikely]]
      running_block->fail("accesses 16 bytes of shared memory at byte " + std::to_string(offset) + ", not a multiple of 16",
                          where);
    return offset;
  }

 private:
  [[noreturn]] void fail_range(int i, int elements, std::source_location where) const {
    running_block->fail("uses elements [" + std::to_string(i) + ", " + std::to_string(i + elements) +
                            ") of a shared array of " + std::to_string(count_) + " at byte " + std::to_string(offset_),
                        where);
  }

  std::size_t offset_ = 0;
  int count_ = 0;
};

template <class T>
SharedArray<T> shared_array(int byte_offset, int count, std::source_location where = std::source_location::current()) {
  const auto text = [&] {
    return "a shared array of " + std::to_string(count) + " elements at byte " + std::to_string(byte_offset);
  };
  if (byte_offset < 0 || count < 0 || byte_offset % static_cast<int>(alignof(T)) != 0) [[unlikely]]
    running_block->fail(text() + " is not aligned to " + std::to_string(alignof(T)) + " bytes", where);
  if (static_cast<std::size_t>(byte_offset) + static_cast<std::size_t>(count) * sizeof(T) > running_block->shared_bytes())
      [[unlikely]]
    running_block->fail(text() + " does not fit the " + std::to_string(running_block->shared_bytes()) + " bytes of the launch",
                        where);
  return {byte_offset, count};
}

}  // namespace strata::gpu_emulated
