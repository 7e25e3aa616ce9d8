// Cuts text files into documents while reading them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/status.h"

namespace strata {

// What a reader reports, in order: begin_document (with the byte of the file where it starts), any number of text pieces,
// end_document. A callback's error ends the reading and is returned.
struct DocumentSink {
  std::function<Status(std::uint64_t offset)> begin_document;
  std::function<Status(std::string_view piece)> text;
  std::function<Status()> end_document;
};

struct TextFormat {
  std::string separator;                     // between documents; empty: the file is one document
  std::uint64_t cut_at = ~std::uint64_t{0};  // without separator: a new document begins at the first character from here on
};

// Documents without text are left out. Memory: a fixed buffer.
Status read_text_documents(const std::string& path, const TextFormat& format, const DocumentSink& sink);

// One JSON object a line, whose string `key` is the document. Memory: the longest line.
Status read_jsonl_documents(const std::string& path, const std::string& key, const DocumentSink& sink);

}  // namespace strata
