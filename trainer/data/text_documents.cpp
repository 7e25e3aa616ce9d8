#include "trainer/data/text_documents.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "trainer/data/input_file.h"

namespace strata {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// Reads a file from the front in chunks.
class ChunkReader {
 public:
  static Result<ChunkReader> open(const std::string& path) {
    STRATA_ASSIGN_OR_RETURN(auto file, InputFile::open(path));
    return ChunkReader(std::move(file));
  }
  bool at_end() const { return offset_ == file_->size(); }
  std::uint64_t offset() const { return offset_; }
  // Appends the next chunk to `text`.
  Status next(std::string& text) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(kChunkBytes, file_->size() - offset_));
    const std::size_t before = text.size();
    text.resize(before + count);
    STRATA_RETURN_IF_ERROR(file_->read(offset_, std::as_writable_bytes(std::span(text).subspan(before))));
    offset_ += count;
    return {};
  }

 private:
  explicit ChunkReader(std::shared_ptr<const InputFile> file) : file_(std::move(file)) {}
  std::shared_ptr<const InputFile> file_;
  std::uint64_t offset_ = 0;
};

// Reports documents piece by piece, and none that is empty.
class Emitter {
 public:
  explicit Emitter(const DocumentSink& sink) : sink_(sink) {}
  Status text(std::string_view piece, std::uint64_t offset) {
    if (piece.empty()) return {};
    if (!open_) STRATA_RETURN_IF_ERROR(sink_.begin_document(offset));
    open_ = true;
    return sink_.text(piece);
  }
  Status end() {
    if (!open_) return {};
    open_ = false;
    return sink_.end_document();
  }

 private:
  const DocumentSink& sink_;
  bool open_ = false;
};

Status check_not_compressed(const std::string& path, std::string_view head) {
  constexpr std::string_view kMagics[] = {"\x1f\x8b", "BZh",
                                          "\xfd"
                                          "7zXZ",
                                          "\x28\xb5\x2f\xfd", "PK\x03\x04"};
  for (const std::string_view magic : kMagics)
    if (head.starts_with(magic)) return {Code::corrupt, path + ": a compressed file, not text; unpack it first"};
  return {};
}

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }  // in UTF-8

Status read_whole(ChunkReader& reader, const std::string& path, std::uint64_t cut_at, Emitter& out) {
  std::string text;
  bool cut = false;
  while (!reader.at_end()) {
    const std::uint64_t begin = reader.offset();
    text.clear();
    STRATA_RETURN_IF_ERROR(reader.next(text));
    if (begin == 0) STRATA_RETURN_IF_ERROR(check_not_compressed(path, text));
    std::string_view piece = text;
    if (!cut && reader.offset() > cut_at) {
      std::size_t at = cut_at > begin ? static_cast<std::size_t>(cut_at - begin) : 0;
      while (at < piece.size() && continues_character(piece[at])) ++at;
      if (at < piece.size()) {
        STRATA_RETURN_IF_ERROR(out.text(piece.substr(0, at), begin));
        STRATA_RETURN_IF_ERROR(out.end());
        STRATA_RETURN_IF_ERROR(out.text(piece.substr(at), begin + at));
        cut = true;
        continue;
      }
    }
    STRATA_RETURN_IF_ERROR(out.text(piece, begin));
  }
  return out.end();
}

Status read_separated(ChunkReader& reader, const std::string& path, std::string_view separator, Emitter& out) {
  std::string text;  // what may still be the start of a separator, then the next chunk
  while (!reader.at_end()) {
    const bool first = reader.offset() == 0;
    const std::uint64_t begin = reader.offset() - text.size();
    STRATA_RETURN_IF_ERROR(reader.next(text));
    if (first) STRATA_RETURN_IF_ERROR(check_not_compressed(path, text));
    std::size_t done = 0;
    for (std::size_t at; (at = text.find(separator, done)) != std::string::npos; done = at + separator.size()) {
      STRATA_RETURN_IF_ERROR(out.text(std::string_view(text).substr(done, at - done), begin + done));
      STRATA_RETURN_IF_ERROR(out.end());
    }
    const std::size_t keep = reader.at_end() ? 0 : std::min(separator.size() - 1, text.size() - done);
    STRATA_RETURN_IF_ERROR(out.text(std::string_view(text).substr(done, text.size() - keep - done), begin + done));
    text.erase(0, text.size() - keep);
  }
  return out.end();
}

struct LinePlace {
  const std::string& path;
  std::uint64_t number;
  std::uint64_t offset;
};

Status emit_json(const LinePlace& place, std::string_view line, const std::string& key, Emitter& out) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return {};
  const std::string where = place.path + ":" + std::to_string(place.number) + ": ";
  const auto object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) return {Code::corrupt, where + "not a JSON object"};
  const auto text = object.find(key);
  if (text == object.end() || !text->is_string()) return {Code::corrupt, where + "no text under the key \"" + key + "\""};
  STRATA_RETURN_IF_ERROR(out.text(text->get_ref<const std::string&>(), place.offset));
  return out.end();
}

}  // namespace

Status read_text_documents(const std::string& path, const TextFormat& format, const DocumentSink& sink) {
  STRATA_ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::open(path));
  Emitter out(sink);
  return format.separator.empty() ? read_whole(reader, path, format.cut_at, out)
                                  : read_separated(reader, path, format.separator, out);
}

Status read_jsonl_documents(const std::string& path, const std::string& key, const DocumentSink& sink) {
  STRATA_ASSIGN_OR_RETURN(ChunkReader reader, ChunkReader::open(path));
  Emitter out(sink);
  std::string text;  // the unfinished line, then the next chunk
  std::uint64_t number = 0;
  while (!reader.at_end()) {
    const std::uint64_t begin = reader.offset() - text.size();
    const std::size_t known = text.size();  // holds no line end
    STRATA_RETURN_IF_ERROR(reader.next(text));
    std::size_t done = 0;
    for (std::size_t at = known; (at = text.find('\n', std::max(at, done))) != std::string::npos; done = at + 1) {
      const LinePlace place{path, ++number, begin + done};
      STRATA_RETURN_IF_ERROR(emit_json(place, std::string_view(text).substr(done, at - done), key, out));
    }
    text.erase(0, done);
  }
  return emit_json({path, number + 1, reader.offset() - text.size()}, text, key, out);
}

}  // namespace strata
