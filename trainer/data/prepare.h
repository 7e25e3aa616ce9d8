// Text to token files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata {

struct PrepareOptions {
  // Files, or folders (read recursively, in the order of their paths, without hidden files and linked folders). A file called
  // *.jsonl holds one document a line: an object whose `json_key` is the text. Any other file is text.
  std::vector<std::string> inputs;
  std::string output_prefix;  // writes PREFIX_train.{bin,idx} and, when the fraction is above 0, PREFIX_validation.{bin,idx}
  std::string tokenizer = "byte";
  // Text that stands between the documents of a file and belongs to none; empty: a text file is one document.
  std::string document_separator;
  std::string json_key = "text";

  double validation_fraction = 0.05;
  // What becomes validation data. tail: the end of every file (of a text file that is one document, the end of its text; else
  // the documents that begin there). document: each document by itself, drawn from its path below the input and its number,
  // so that the choice does not change when documents are added.
  enum class Split { tail, document } split = Split::tail;
};

struct PrepareReport {
  struct Part {
    std::string prefix;
    std::uint64_t documents = 0;
    std::uint64_t tokens = 0;
  };
  Part train;
  Part validation;  // empty prefix: there is none
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;  // of input
};

// Each document becomes its tokens and an end-of-document token. The output is a pure function of the input and the options,
// is written in bounded memory, and appears whole or not at all. Errors: invalid_config for options that cannot work (a
// tokenizer that is not built in, a split with an empty part, a fraction of 0 beside validation files of an earlier run);
// not_found; corrupt for compressed files and lines that are not JSON; io_error.
Status prepare_data(const PrepareOptions& options, PrepareReport* report);

}  // namespace strata
