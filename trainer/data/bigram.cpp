#include "trainer/data/bigram.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <unordered_map>
#include <vector>

namespace strata {
namespace {

// Calls use(previous, next) for each pair of neighbours in [first, end).
template <class Use>
Status for_each_pair(const TokenStream& stream, std::uint64_t first, std::uint64_t end, Use use) {
  constexpr std::uint64_t kChunk = 65536;
  std::vector<std::int32_t> tokens;
  for (std::uint64_t at = first; at + 1 < end; at += kChunk) {
    tokens.resize(static_cast<std::size_t>(std::min(kChunk + 1, end - at)));
    STRATA_RETURN_IF_ERROR(stream.read(at, tokens));
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i)
      use(static_cast<std::uint32_t>(tokens[i]), static_cast<std::uint32_t>(tokens[i + 1]));
  }
  return {};
}

class Bigram {
 public:
  explicit Bigram(std::int64_t vocab_size) : next_(static_cast<std::size_t>(vocab_size)), rows_(next_.size()) {}

  Status count(const TokenStream& stream, std::uint64_t first, std::uint64_t end) {
    return for_each_pair(stream, first, end, [this](std::uint32_t a, std::uint32_t b) {
      std::uint64_t& pair = pairs_[key(a, b)];
      rows_[a].kinds += pair == 0;
      ++pair;
      ++rows_[a].total;
      ++next_[b];
      ++total_;
    });
  }
  double unigram(std::uint32_t b) const {
    return (static_cast<double>(next_[b]) + 1.0) / (static_cast<double>(total_) + static_cast<double>(next_.size()));
  }
  double probability(std::uint32_t a, std::uint32_t b, double discount) const {
    const Row& row = rows_[a];
    if (row.total == 0) return unigram(b);
    const auto pair = pairs_.find(key(a, b));
    const double seen = pair == pairs_.end() ? 0.0 : static_cast<double>(pair->second) - discount;
    return (seen + discount * static_cast<double>(row.kinds) * unigram(b)) / static_cast<double>(row.total);
  }

 private:
  struct Row {
    std::uint64_t total = 0;
    std::uint64_t kinds = 0;
  };
  static std::uint64_t key(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} << 32 | b; }
  std::vector<std::uint64_t> next_;  // how often each token follows another
  std::vector<Row> rows_;
  std::unordered_map<std::uint64_t, std::uint64_t> pairs_;
  std::uint64_t total_ = 0;
};

constexpr std::array<double, 10> kDiscounts = {0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95};

constexpr std::int64_t kMaxVocabSize = std::int64_t{1} << 24;

// The discount with the least loss on the last tenth of the stream, for a model of the rest.
Result<double> choose_discount(const TokenStream& stream, std::int64_t vocab_size) {
  const std::uint64_t held_out = stream.size() - stream.size() / 10;
  Bigram model(vocab_size);
  STRATA_RETURN_IF_ERROR(model.count(stream, 0, held_out));
  std::array<double, kDiscounts.size()> losses{};
  STRATA_RETURN_IF_ERROR(for_each_pair(stream, held_out, stream.size(), [&](std::uint32_t a, std::uint32_t b) {
    for (std::size_t i = 0; i < losses.size(); ++i) losses[i] -= std::log(model.probability(a, b, kDiscounts[i]));
  }));
  return kDiscounts[static_cast<std::size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin())];
}

}  // namespace

Result<BigramReport> bigram_loss(const TokenStream& train, const TokenStream& validation) {
  if (train.size() < 20 || validation.size() < 2) {
    return Status(Code::invalid_config, "a bigram model needs at least 20 training and 2 validation tokens; there are " +
                                            std::to_string(train.size()) + " and " + std::to_string(validation.size()));
  }
  STRATA_ASSIGN_OR_RETURN(const std::int64_t train_vocab, train.scan_vocab_size());
  STRATA_ASSIGN_OR_RETURN(const std::int64_t validation_vocab, validation.scan_vocab_size());
  BigramReport report;
  report.vocab_size = std::max(train_vocab, validation_vocab);
  if (report.vocab_size > kMaxVocabSize) {
    return Status(Code::unsupported, "bigram model: a vocabulary of " + std::to_string(report.vocab_size) +
                                         " tokens; at most " + std::to_string(kMaxVocabSize) + " are counted");
  }
  STRATA_ASSIGN_OR_RETURN(report.discount, choose_discount(train, report.vocab_size));
  Bigram model(report.vocab_size);
  STRATA_RETURN_IF_ERROR(model.count(train, 0, train.size()));
  STRATA_RETURN_IF_ERROR(for_each_pair(validation, 0, validation.size(), [&](std::uint32_t a, std::uint32_t b) {
    report.loss -= std::log(model.probability(a, b, report.discount));
    report.unigram_loss -= std::log(model.unigram(b));
    ++report.tokens;
  }));
  report.loss /= static_cast<double>(report.tokens);
  report.unigram_loss /= static_cast<double>(report.tokens);
  return report;
}

}  // namespace strata
