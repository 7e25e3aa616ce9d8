#include "trainer/data/megatron.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

namespace strata {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are read and written as they lie in memory");

constexpr std::array<char, 9> kMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr std::uint64_t kVersionOffset = 9;
constexpr std::uint64_t kTypeOffset = 17;
constexpr std::uint64_t kSequencesOffset = 18;
constexpr std::uint64_t kDocumentsOffset = 26;
constexpr std::uint64_t kHeaderBytes = 34;
constexpr std::uint64_t kChunk = 65536;  // index entries read at a time

std::optional<TokenType> type_of(std::uint8_t code) {
  switch (code) {
    case 1: return TokenType::u8;
    case 2: return TokenType::i8;
    case 3: return TokenType::i16;
    case 4: return TokenType::i32;
    case 5: return TokenType::i64;
    case 8: return TokenType::u16;
    default: return std::nullopt;
  }
}

std::uint8_t code_of(TokenType type) {
  for (std::uint8_t code = 1; code <= 8; ++code)
    if (type_of(code) == type) return code;
  return 0;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

template <class T>
std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

class IndexReader {
 public:
  IndexReader(std::shared_ptr<const InputFile> idx, std::shared_ptr<const InputFile> bin)
      : idx_(std::move(idx)), bin_(std::move(bin)) {}

  Result<TokenShard> read(const std::string& prefix) {
    STRATA_RETURN_IF_ERROR(read_header());
    shard_.path = prefix;
    shard_.format = TokenFormat::megatron;
    shard_.sequences = sequences_;
    shard_.documents = bounds_ - 1;
    STRATA_RETURN_IF_ERROR(read_sequences());
    STRATA_RETURN_IF_ERROR(read_documents());
    return std::move(shard_);
  }

 private:
  Status corrupt(std::uint64_t offset, const std::string& what, const std::string& expected, const std::string& found) const {
    return corrupt_file(idx_->path(), offset, what, expected, found);
  }

  template <class T>
  Result<T> field(std::uint64_t offset) const {
    T value{};
    STRATA_RETURN_IF_ERROR(idx_->read(offset, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }

  template <class T>
  Result<std::span<const T>> chunk(std::vector<T>& storage, std::uint64_t offset, std::uint64_t first,
                                   std::uint64_t end) const {
    storage.resize(std::min(kChunk, end - first));
    STRATA_RETURN_IF_ERROR(idx_->read(offset + first * sizeof(T), std::as_writable_bytes(std::span(storage))));
    return std::span<const T>(storage);
  }

  Status read_header() {
    if (idx_->size() < kHeaderBytes) {
      return corrupt(0, "index header", std::to_string(kHeaderBytes) + " bytes",
                     "a file of " + std::to_string(idx_->size()) + " bytes");
    }
    std::array<char, kMagic.size()> magic{};
    STRATA_RETURN_IF_ERROR(idx_->read(0, std::as_writable_bytes(std::span(magic))));
    if (magic != kMagic) return corrupt(0, "magic number", "MMIDIDX", "other bytes (not a Megatron index)");
    STRATA_ASSIGN_OR_RETURN(const auto version, field<std::uint64_t>(kVersionOffset));
    if (version != 1) return corrupt(kVersionOffset, "version", "1", std::to_string(version));
    STRATA_ASSIGN_OR_RETURN(const auto code, field<std::uint8_t>(kTypeOffset));
    if (code == 6 || code == 7) {
      return {Code::unsupported, idx_->path() + ": elements are floating-point numbers (type " + std::to_string(code) +
                                     "); tokens must be integers"};
    }
    const auto type = type_of(code);
    if (!type) return corrupt(kTypeOffset, "token type", "a code from 1 to 8", std::to_string(code));
    shard_.type = *type;
    STRATA_ASSIGN_OR_RETURN(sequences_, field<std::uint64_t>(kSequencesOffset));
    STRATA_ASSIGN_OR_RETURN(bounds_, field<std::uint64_t>(kDocumentsOffset));
    return check_size();
  }

  // Compares by division first: a count that lies must not overflow the products.
  Status check_size() const {
    const std::uint64_t arrays = idx_->size() - kHeaderBytes;
    if (sequences_ > arrays / 12) {
      return corrupt(kSequencesOffset, "count of sequences", "at most " + std::to_string(arrays / 12) + " (12 bytes each)",
                     std::to_string(sequences_));
    }
    const std::uint64_t rest = arrays - sequences_ * 12;
    if (bounds_ == 0 || bounds_ > rest / 8) {
      return corrupt(kDocumentsOffset, "count of document bounds", "1 to " + std::to_string(rest / 8) + " (8 bytes each)",
                     std::to_string(bounds_));
    }
    if (rest == bounds_ * 8) return {};
    if (rest - bounds_ * 8 == sequences_) {
      return {Code::unsupported, idx_->path() + ": a multimodal index (it has a mode for each sequence); only text is read"};
    }
    return corrupt(kHeaderBytes + sequences_ * 12 + bounds_ * 8, "end of index", "end of file",
                   std::to_string(rest - bounds_ * 8) + " more bytes");
  }

  Status read_sequences() {
    std::vector<std::int32_t> length_storage;
    std::vector<std::int64_t> pointer_storage;
    for (std::uint64_t first = 0; first < sequences_; first += kChunk) {
      STRATA_ASSIGN_OR_RETURN(const auto lengths, chunk(length_storage, kHeaderBytes, first, sequences_));
      STRATA_ASSIGN_OR_RETURN(const auto pointers, chunk(pointer_storage, pointers_offset(), first, sequences_));
      for (std::uint64_t i = 0; i < lengths.size(); ++i)
        STRATA_RETURN_IF_ERROR(add_sequence(first + i, lengths[i], pointers[i]));
    }
    return {};
  }

  Status add_sequence(std::uint64_t index, std::int32_t length, std::int64_t pointer) {
    const std::uint64_t width = size_of(shard_.type);
    const std::string name = " of sequence " + std::to_string(index);
    if (length < 0) return corrupt(kHeaderBytes + index * 4, "length" + name, "0 or more", std::to_string(length));
    const auto begin = static_cast<std::uint64_t>(pointer);
    if (pointer < 0 || begin > bin_->size() || static_cast<std::uint64_t>(length) > (bin_->size() - begin) / width) {
      return corrupt(
          pointers_offset() + index * 8, "extent" + name,
          "inside the " + std::to_string(bin_->size()) + " bytes of " + bin_->path(),
          std::to_string(length) + " tokens of " + std::to_string(width) + " bytes from byte " + std::to_string(pointer));
    }
    if (begin % width != 0) {
      return corrupt(pointers_offset() + index * 8, "pointer" + name, "a multiple of " + std::to_string(width),
                     std::to_string(pointer));
    }
    if (length == 0) return {};
    const auto count = static_cast<std::uint64_t>(length);
    shard_.tokens += count;
    if (!shard_.runs.empty() && shard_.runs.back().offset + shard_.runs.back().count * width == begin) {
      shard_.runs.back().count += count;
    } else {
      shard_.runs.push_back({bin_, begin, count, shard_.type});
    }
    return {};
  }

  Status read_documents() {
    const std::uint64_t base = pointers_offset() + sequences_ * 8;
    std::vector<std::int64_t> storage;
    std::int64_t previous = 0;
    for (std::uint64_t first = 0; first < bounds_; first += kChunk) {
      STRATA_ASSIGN_OR_RETURN(const auto bounds, chunk(storage, base, first, bounds_));
      for (std::uint64_t i = 0; i < bounds.size(); ++i) {
        STRATA_RETURN_IF_ERROR(check_bound(base, first + i, previous, bounds[i]));
        previous = bounds[i];
      }
    }
    return {};
  }

  // The first bound is 0, the last is the number of sequences, and none is below the one before it.
  Status check_bound(std::uint64_t base, std::uint64_t index, std::int64_t previous, std::int64_t bound) const {
    const auto last = static_cast<std::int64_t>(sequences_);
    const auto wrong = [&](const std::string& expected) {
      return corrupt(base + index * 8, "document bound " + std::to_string(index), expected, std::to_string(bound));
    };
    if (index == 0 && bound != 0) return wrong("0");
    if (index + 1 == bounds_ && bound != last) return wrong(std::to_string(last) + " (the number of sequences)");
    if (bound < previous || bound > last) return wrong(std::to_string(previous) + " to " + std::to_string(last));
    return {};
  }

  std::uint64_t pointers_offset() const { return kHeaderBytes + sequences_ * 4; }

  std::shared_ptr<const InputFile> idx_;
  std::shared_ptr<const InputFile> bin_;
  std::uint64_t sequences_ = 0;
  std::uint64_t bounds_ = 0;
  TokenShard shard_;
};

template <class T>
Status encode(std::span<const std::int32_t> tokens, std::vector<std::byte>& out) {
  out.resize(tokens.size() * sizeof(T));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto value = static_cast<T>(tokens[i]);
    if (static_cast<std::int64_t>(value) != tokens[i]) {
      return {Code::invalid_argument,
              "token " + std::to_string(tokens[i]) + " does not fit the token type (" + std::to_string(sizeof(T)) + " bytes)"};
    }
    std::memcpy(out.data() + i * sizeof(T), &value, sizeof(T));
  }
  return {};
}

Status encode_as(TokenType type, std::span<const std::int32_t> tokens, std::vector<std::byte>& out) {
  switch (type) {
    case TokenType::u8: return encode<std::uint8_t>(tokens, out);
    case TokenType::u16: return encode<std::uint16_t>(tokens, out);
    case TokenType::i32: return encode<std::int32_t>(tokens, out);
    case TokenType::i64: return encode<std::int64_t>(tokens, out);
    default:
      return {Code::invalid_argument, std::string("Megatron files are written as u8, u16, i32 or i64, not ") + to_string(type)};
  }
}

}  // namespace

Result<TokenShard> open_megatron(const std::string& prefix) {
  STRATA_ASSIGN_OR_RETURN(const auto idx, InputFile::open(prefix + ".idx"));
  STRATA_ASSIGN_OR_RETURN(const auto bin, InputFile::open(prefix + ".bin"));
  return IndexReader(idx, bin).read(prefix);
}

MegatronWriter::MegatronWriter(std::string prefix, TokenType type, std::uint64_t max_sequence)
    : prefix_(std::move(prefix)), type_(type), max_sequence_(max_sequence) {}

Result<std::unique_ptr<MegatronWriter>> MegatronWriter::create(const std::string& prefix, TokenType type,
                                                               std::uint64_t max_sequence) {
  STRATA_CHECK(max_sequence >= 1 && max_sequence <= 0x7fffffff, "a sequence's length is a positive i32");
  std::unique_ptr<MegatronWriter> writer(new MegatronWriter(prefix, type, max_sequence));
  STRATA_RETURN_IF_ERROR(encode_as(type, {}, writer->encoded_));
  STRATA_ASSIGN_OR_RETURN(writer->bin_, OutputFile::create(prefix + ".bin"));
  STRATA_ASSIGN_OR_RETURN(writer->idx_, OutputFile::create(prefix + ".idx"));
  return writer;
}

Status MegatronWriter::append(std::span<const std::int32_t> tokens) {
  STRATA_RETURN_IF_ERROR(encode_as(type_, tokens, encoded_).with_context(prefix_ + ".bin"));
  STRATA_RETURN_IF_ERROR(bin_->write(encoded_));
  tokens_ += tokens.size();
  open_sequence_ += tokens.size();
  while (open_sequence_ > max_sequence_) {
    lengths_.push_back(static_cast<std::int32_t>(max_sequence_));
    open_sequence_ -= max_sequence_;
  }
  return {};
}

Status MegatronWriter::end_document() {
  lengths_.push_back(static_cast<std::int32_t>(open_sequence_));
  open_sequence_ = 0;
  documents_.push_back(static_cast<std::int64_t>(lengths_.size()));
  return {};
}

Status MegatronWriter::finish() {
  STRATA_CHECK(open_sequence_ == 0, "the last document must have ended");
  const auto write = [this](std::span<const std::byte> bytes) { return idx_->write(bytes); };
  STRATA_RETURN_IF_ERROR(write(std::as_bytes(std::span(kMagic))));
  STRATA_RETURN_IF_ERROR(write(bytes_of_value(std::uint64_t{1})));
  STRATA_RETURN_IF_ERROR(write(bytes_of_value(code_of(type_))));
  STRATA_RETURN_IF_ERROR(write(bytes_of_value(std::uint64_t{lengths_.size()})));
  STRATA_RETURN_IF_ERROR(write(bytes_of_value(std::uint64_t{documents_.size()})));
  STRATA_RETURN_IF_ERROR(write(bytes_of(lengths_)));
  std::uint64_t pointer = 0;
  for (const std::int32_t length : lengths_) {
    STRATA_RETURN_IF_ERROR(write(bytes_of_value(pointer)));
    pointer += static_cast<std::uint64_t>(length) * size_of(type_);
  }
  STRATA_RETURN_IF_ERROR(write(bytes_of(documents_)));
  STRATA_RETURN_IF_ERROR(bin_->finish());
  return idx_->finish();
}

Status MegatronWriter::commit(std::span<MegatronWriter* const> writers) {
  for (const MegatronWriter* writer : writers) {
    const std::string& old_index = writer->idx_->path();
    if (::unlink(old_index.c_str()) != 0 && errno != ENOENT) return Status::from_errno("removal", old_index, errno);
  }
  for (MegatronWriter* writer : writers) STRATA_RETURN_IF_ERROR(writer->bin_->commit());
  for (MegatronWriter* writer : writers) STRATA_RETURN_IF_ERROR(writer->idx_->commit());
  return {};
}

}  // namespace strata
