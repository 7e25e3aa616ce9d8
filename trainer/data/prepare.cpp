#include "trainer/data/prepare.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "runtime/rng.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/input_file.h"
#include "trainer/data/megatron.h"
#include "trainer/data/text_documents.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

struct Input {
  std::string path;
  std::string name;  // below the input the user gave: independent of where that lies
};

Status add_folder(const std::string& folder, std::vector<Input>& inputs) {
  std::error_code error;
  std::vector<Input> found;
  const fs::path root(folder);
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const bool hidden = it->path().filename().string().starts_with('.');
    std::error_code ignored;
    if (hidden && it->is_directory(ignored)) it.disable_recursion_pending();
    if (!hidden && it->is_regular_file(ignored))
      found.push_back({it->path().string(), it->path().lexically_relative(root).string()});
  }
  if (error) return {Code::io_error, folder + ": cannot list the folder: " + error.message()};
  std::sort(found.begin(), found.end(), [](const Input& a, const Input& b) { return a.path < b.path; });
  inputs.insert(inputs.end(), found.begin(), found.end());
  return {};
}

Result<std::vector<Input>> list_inputs(const std::vector<std::string>& paths) {
  std::vector<Input> inputs;
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      STRATA_RETURN_IF_ERROR(add_folder(path, inputs));
    } else {
      inputs.push_back({path, fs::path(path).filename().string()});
    }
  }
  if (inputs.empty()) return Status(Code::not_found, "no input files were found; name text files or folders that hold them");
  return inputs;
}

Status check(const PrepareOptions& options) {
  if (options.tokenizer != "byte") {
    return {Code::invalid_config,
            "tokenizer " + options.tokenizer +
                ": only \"byte\" is built in; examples/tokenize_with_hf/tokenize_text.py writes the same files with any "
                "tokenizer.json of Hugging Face"};
  }
  if (options.output_prefix.empty() || options.output_prefix.ends_with('/')) {
    return {Code::invalid_config, "output prefix \"" + options.output_prefix + "\": a path that ends in a name is needed"};
  }
  const double fraction = options.validation_fraction;
  if (!(fraction >= 0.0 && fraction < 1.0)) {
    return {Code::invalid_config, "validation fraction " + std::to_string(fraction) + ": 0 or more and less than 1 is needed"};
  }
  const std::string former = options.output_prefix + "_validation.idx";
  std::error_code ignored;
  if (fraction == 0.0 && fs::exists(former, ignored))
    return {Code::invalid_config, former +
                                      " is there from an earlier preparation, and its text would now be training data too; "
                                      "remove both validation files, or choose another output prefix"};
  return {};
}

// Sends each document to the training or the validation file.
class Preparation {
 public:
  explicit Preparation(const PrepareOptions& options) : options_(options) {}

  Status open() {
    const fs::path folder = fs::path(options_.output_prefix).parent_path();
    std::error_code error;
    if (!folder.empty()) fs::create_directories(folder, error);
    if (error) return {Code::io_error, folder.string() + ": cannot create the folder: " + error.message()};
    // 257 ids do not fit a byte.
    STRATA_ASSIGN_OR_RETURN(train_, MegatronWriter::create(options_.output_prefix + "_train", TokenType::u16));
    if (options_.validation_fraction > 0.0) {
      STRATA_ASSIGN_OR_RETURN(validation_, MegatronWriter::create(options_.output_prefix + "_validation", TokenType::u16));
    }
    return {};
  }

  Status add(const Input& input, PrepareReport& report) {
    STRATA_ASSIGN_OR_RETURN(const auto file, InputFile::open(input.path));
    ++report.files;
    report.bytes += file->size();
    name_stream_ = stream_id(input.name);
    document_ = 0;
    const double tail = std::round(static_cast<double>(file->size()) * options_.validation_fraction);
    tail_begin_ = file->size() - static_cast<std::uint64_t>(tail);
    const DocumentSink sink = {
        .begin_document = [this](std::uint64_t offset) { return begin_document(offset); },
        .text = [this](std::string_view piece) { return current_->append(ByteTokenizer::encode(piece)); },
        .end_document = [this] { return end_document(); },
    };
    if (input.path.ends_with(".jsonl")) return read_jsonl_documents(input.path, options_.json_key, sink);
    TextFormat format{.separator = options_.document_separator};
    if (by_tail()) format.cut_at = tail_begin_;
    return read_text_documents(input.path, format, sink);
  }

  Status finish(PrepareReport& report) {
    report.train = part_of(*train_, "_train");
    if (validation_) report.validation = part_of(*validation_, "_validation");
    STRATA_RETURN_IF_ERROR(check_parts(report));
    std::vector<MegatronWriter*> writers = {train_.get()};
    if (validation_) writers.push_back(validation_.get());
    for (MegatronWriter* writer : writers) STRATA_RETURN_IF_ERROR(writer->finish());
    return MegatronWriter::commit(writers);
  }

 private:
  bool by_tail() const { return validation_ && options_.split == PrepareOptions::Split::tail; }

  bool to_validation(std::uint64_t offset) const {
    if (!validation_) return false;
    if (by_tail()) return offset >= tail_begin_;
    return Philox(0, name_stream_).uniform(document_) < static_cast<float>(options_.validation_fraction);
  }

  Status begin_document(std::uint64_t offset) {
    current_ = to_validation(offset) ? validation_.get() : train_.get();
    ++document_;
    return {};
  }

  Status end_document() {
    constexpr std::int32_t kEnd[] = {ByteTokenizer::kEndOfText};
    STRATA_RETURN_IF_ERROR(current_->append(kEnd));
    return current_->end_document();
  }

  PrepareReport::Part part_of(const MegatronWriter& writer, const char* suffix) const {
    return {options_.output_prefix + suffix, writer.documents(), writer.tokens()};
  }

  Status check_parts(const PrepareReport& report) const {
    const std::uint64_t documents = report.train.documents + report.validation.documents;
    if (documents == 0) return {Code::invalid_config, "the input files hold no text"};
    if (report.train.documents > 0 && (!validation_ || report.validation.documents > 0)) return {};
    return {Code::invalid_config, std::string(report.train.documents == 0 ? "no training" : "no validation") +
                                      " data: all of the " + std::to_string(documents) +
                                      " documents fell to the other part; change the validation fraction (0: no validation "
                                      "data) or the way of splitting"};
  }

  const PrepareOptions& options_;
  std::unique_ptr<MegatronWriter> train_;
  std::unique_ptr<MegatronWriter> validation_;
  MegatronWriter* current_ = nullptr;
  std::uint64_t name_stream_ = 0;
  std::uint64_t document_ = 0;    // number within the file
  std::uint64_t tail_begin_ = 0;  // byte of the file
};

}  // namespace

Status prepare_data(const PrepareOptions& options, PrepareReport* report) {
  STRATA_CHECK(report != nullptr, "a report is always given");
  STRATA_RETURN_IF_ERROR(check(options));
  STRATA_ASSIGN_OR_RETURN(const std::vector<Input> inputs, list_inputs(options.inputs));
  Preparation preparation(options);
  STRATA_RETURN_IF_ERROR(preparation.open());
  PrepareReport result;
  for (const Input& input : inputs) STRATA_RETURN_IF_ERROR(preparation.add(input, result));
  STRATA_RETURN_IF_ERROR(preparation.finish(result));
  *report = result;
  return {};
}

}  // namespace strata
