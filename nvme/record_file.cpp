#include "nvme/record_file.h"

#include <algorithm>
#include <future>
#include <utility>

#include "nvme/block_file.h"
#include "nvme/format.h"
#include "nvme/probe.h"
#include "nvme/record_header.h"
#include "nvme/record_layout.h"
#include "nvme/record_turns.h"
#include "nvme/state_files.h"

namespace strata {
namespace {

std::string name(RecordId id, std::uint64_t version) {
  return "record " + std::to_string(id.v) + ", version " + std::to_string(version);
}

void remove_all(std::vector<BlockFile>& files) {
  for (BlockFile& file : files) {
    if (!file.io().hangs) file.remove();
  }
}

// At the same time: a file is as slow to allocate as its device is to write.
Result<std::vector<BlockFile>> create_files(const std::vector<std::string>& paths, const RecordLayout& layout,
                                            const BlockFileOptions& options) {
  std::vector<std::future<Result<BlockFile>>> pending;
  for (std::size_t p = 1; p < paths.size(); ++p) {
    pending.push_back(
        std::async(std::launch::async, [&, p] { return BlockFile::create(paths[p], layout.file_bytes(p), options); }));
  }
  std::vector<BlockFile> files;
  Status first;
  const auto add = [&](Result<BlockFile> file) {
    if (file.ok()) {
      files.push_back(std::move(file).value());
    } else if (first.ok()) {
      first = file.status();
    }
  };
  add(BlockFile::create(paths[0], layout.file_bytes(0), options));
  for (auto& file : pending) add(file.get());
  if (first.ok()) return files;
  remove_all(files);
  return first;
}

}  // namespace

class RecordFile::Impl {
 public:
  Impl(std::vector<BlockFile> files, RecordLayout layout, RecordTurns turns, std::vector<std::string> notes)
      : files_(std::move(files)),
        layout_(std::move(layout)),
        turns_(std::move(turns)),
        notes_(std::move(notes)),
        last_(layout_.records()) {}
  ~Impl() {
    if (std::any_of(files_.begin(), files_.end(), [](const BlockFile& f) { return f.io().hangs.load(); })) turns_.leave_files();
    remove_all(files_);
  }

  Status write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer, RecordMemory& memory);
  Status read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer, RecordMemory& memory);
  static Status seal(RecordHeader header, const RecordExtent& extent, std::span<std::byte> buffer, RecordMemory& memory);
  IoRequest request(IoRequest::Kind kind, const RecordPiece& piece, std::span<std::byte> buffer) const;
  std::vector<IoRequest> payload_requests(IoRequest::Kind kind, const RecordExtent& extent, std::span<std::byte> buffer) const;
  Status write_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer);
  Status read_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer);
  std::size_t index(RecordId id) const {
    STRATA_CHECK(id.v >= 0 && static_cast<std::size_t>(id.v) < layout_.records(), "no record " + std::to_string(id.v));
    return static_cast<std::size_t>(id.v);
  }

  const RecordPiece& first_piece(const RecordExtent& extent) const {
    return extent.payload.empty() ? extent.header : extent.payload.front();
  }
  const std::string& path_of(const RecordPiece& piece) const { return files_[piece.path].path(); }
  std::string other_places(const RecordExtent& extent) const;

  std::vector<BlockFile> files_;
  const RecordLayout layout_;
  RecordTurns turns_;
  const std::vector<std::string> notes_;

 private:
  struct Last {
    bool written = false;
    std::uint64_t version = 0;
  };
  std::vector<Last> last_;  // of each record, changed by its writer only
};

IoRequest RecordFile::Impl::request(IoRequest::Kind kind, const RecordPiece& piece, std::span<std::byte> buffer) const {
  return {kind, &files_[piece.path].io(), buffer.data() + piece.first, piece.bytes, piece.offset};
}

std::vector<IoRequest> RecordFile::Impl::payload_requests(IoRequest::Kind kind, const RecordExtent& extent,
                                                          std::span<std::byte> buffer) const {
  std::vector<IoRequest> requests;
  for (const RecordPiece& piece : extent.payload) requests.push_back(request(kind, piece, buffer));
  return requests;
}

// The payload has one checksum: which of its places is damaged cannot be told.
std::string RecordFile::Impl::other_places(const RecordExtent& extent) const {
  std::string text;
  std::vector<bool> named(files_.size());
  named[first_piece(extent).path] = true;
  for (const RecordPiece& piece : extent.payload) {
    if (named[piece.path]) continue;
    named[piece.path] = true;
    text += " and of " + path_of(piece) + " at offset " + std::to_string(piece.offset);
  }
  return text;
}

// A crash between the two leaves the slot with an old header that its payload contradicts: unreadable, as it should be.
Status RecordFile::Impl::write_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer) {
  STRATA_ASSIGN_OR_RETURN(const RecordTurns::Held held, turns_.take(IoRequest::Kind::write, extent));
  if (!extent.payload.empty()) {
    STRATA_RETURN_IF_ERROR(engine.run(payload_requests(IoRequest::Kind::write, extent, buffer)));
  }
  const IoRequest header = request(IoRequest::Kind::write, extent.header, buffer);
  return engine.run({&header, 1});
}

Status RecordFile::Impl::read_slot(IoEngine& engine, const RecordExtent& extent, std::span<std::byte> buffer) {
  std::vector<IoRequest> requests = payload_requests(IoRequest::Kind::read, extent, buffer);
  if (requests.empty()) {
    requests.push_back(request(IoRequest::Kind::read, extent.header, buffer));
  } else {
    requests.back().bytes += extent.header.bytes;  // right behind the last piece, in the file and in the buffer
  }
  STRATA_ASSIGN_OR_RETURN(const RecordTurns::Held held, turns_.take(IoRequest::Kind::read, extent));
  return engine.run(requests);
}

// What lies behind the payload: zeros, and the header.
Status RecordFile::Impl::seal(RecordHeader header, const RecordExtent& extent, std::span<std::byte> buffer,
                              RecordMemory& memory) {
  const std::size_t bytes = header.payload_bytes;
  STRATA_RETURN_IF_ERROR(memory.zero(buffer.subspan(bytes, extent.padded_payload - bytes)));
  STRATA_ASSIGN_OR_RETURN(header.payload_checksum, memory.checksum(buffer.first(bytes)));
  HeaderBlock block;
  encode(header, block);
  return memory.store(block, buffer.data() + extent.padded_payload);
}

Status RecordFile::Impl::write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer,
                               RecordMemory& memory) {
  const std::size_t r = index(id);
  Last& last = last_[r];
  STRATA_CHECK(!last.written || version == last.version ||
                   (version > last.version && (layout_.slots() == 1 || (version - last.version) % layout_.slots() != 0)),
               "version " + std::to_string(version) + " would overwrite version " + std::to_string(last.version));
  const RecordExtent extent = layout_.extent(r, version);
  STRATA_CHECK(buffer.size() >= extent.bytes(), "the buffer of a record holds its header block too");
  Status status = seal({id.v, version, layout_.payload_bytes(r)}, extent, buffer, memory);
  if (status.ok()) status = write_slot(engine, extent, buffer);
  if (!status.ok()) return status.with_context(name(id, version));
  last = {true, version};
  return {};
}

Status RecordFile::Impl::read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer,
                              RecordMemory& memory) {
  const std::size_t r = index(id);
  const RecordExtent extent = layout_.extent(r, version);
  STRATA_CHECK(buffer.size() >= extent.bytes(), "the buffer of a record holds its header block too");
  if (const Status status = read_slot(engine, extent, buffer); !status.ok()) return status.with_context(name(id, version));
  const std::size_t payload_bytes = layout_.payload_bytes(r);
  HeaderBlock block;
  if (const Status status = memory.load(buffer.data() + extent.padded_payload, block); !status.ok())
    return status.with_context(name(id, version));
  std::uint64_t stored = 0;
  std::string wrong = check_header(block, id.v, version, payload_bytes, &stored);
  std::string where = path_of(extent.header) + ": " + name(id, version) + ", at offset " + std::to_string(extent.header.offset);
  if (wrong.empty()) {
    const Result<std::uint64_t> computed = memory.checksum(buffer.first(payload_bytes));
    if (!computed.ok()) return computed.status().with_context(name(id, version));
    if (*computed == stored) return {};
    wrong = "its payload has checksum " + hex(*computed) + " and its header says " + hex(stored);
    const RecordPiece& piece = first_piece(extent);
    where = path_of(piece) + ": " + name(id, version) + ", at offset " + std::to_string(piece.offset) + other_places(extent);
  }
  return {Code::corrupt, where + ": " + wrong};
}

RecordFile::RecordFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RecordFile::~RecordFile() = default;

Result<std::unique_ptr<RecordFile>> RecordFile::create(const std::vector<std::string>& paths,
                                                       std::vector<std::size_t> payload_bytes,
                                                       const RecordFileOptions& options) {
  STRATA_CHECK(!paths.empty() && (options.weights.empty() || options.weights.size() == paths.size()),
               "records have a path, and each path a weight or none has");
  STRATA_RETURN_IF_ERROR(require_different_files(paths));
  std::vector<std::string> notes;
  std::vector<double> weights = options.weights;
  if (weights.empty()) {
    STRATA_ASSIGN_OR_RETURN(weights, measured_weights(paths, file_bytes(payload_bytes, options.slots), options.io, &notes));
  }
  const auto largest = std::max_element(payload_bytes.begin(), payload_bytes.end());
  const std::size_t largest_bytes = largest == payload_bytes.end() ? 0 : buffer_bytes_for(*largest);
  RecordLayout layout(std::move(payload_bytes), weights, options.slots);
  const BlockFileOptions file_options{.direct = options.direct, .prewrite = options.prewrite, .timeout = options.io.timeout};
  STRATA_ASSIGN_OR_RETURN(std::vector<BlockFile> files, create_files(paths, layout, file_options));
  for (const BlockFile& file : files) {
    if (!file.why_buffered().empty()) notes.push_back(file.path() + ": goes through the page cache: " + file.why_buffered());
  }
  RecordTurns turns = RecordTurns::open(paths, options.turns, largest_bytes, options.io.timeout, &notes);
  return std::unique_ptr<RecordFile>(
      new RecordFile(std::make_unique<Impl>(std::move(files), std::move(layout), std::move(turns), std::move(notes))));
}

std::size_t RecordFile::file_bytes(std::span<const std::size_t> payload_bytes, std::size_t slots) {
  return RecordLayout({payload_bytes.begin(), payload_bytes.end()}, slots).total_bytes();
}

std::size_t RecordFile::buffer_bytes_for(std::size_t payload_bytes) { return RecordLayout::extent_bytes(payload_bytes); }

std::size_t RecordFile::buffer_bytes(RecordId id) const {
  return RecordLayout::extent_bytes(impl_->layout_.payload_bytes(impl_->index(id)));
}

Status RecordFile::write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  HostRecordMemory host;
  return impl_->write(engine, id, version, buffer, host);
}

Status RecordFile::write(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer,
                         RecordMemory& memory) {
  return impl_->write(engine, id, version, buffer, memory);
}

Status RecordFile::read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer) {
  HostRecordMemory host;
  return impl_->read(engine, id, version, buffer, host);
}

Status RecordFile::read(IoEngine& engine, RecordId id, std::uint64_t version, std::span<std::byte> buffer,
                        RecordMemory& memory) {
  return impl_->read(engine, id, version, buffer, memory);
}

std::vector<std::string> RecordFile::paths() const {
  std::vector<std::string> paths;
  for (const BlockFile& file : impl_->files_) paths.push_back(file.path());
  return paths;
}

std::vector<IoFile*> RecordFile::io_files() const {
  std::vector<IoFile*> files;
  for (const BlockFile& file : impl_->files_) files.push_back(&file.io());
  return files;
}

const std::vector<std::string>& RecordFile::notes() const { return impl_->notes_; }

std::vector<PathTraffic> RecordFile::take_traffic() {
  std::vector<PathTraffic> traffic;
  for (IoFile* file : io_files()) traffic.push_back({file->path, file->reads.take(), file->writes.take()});
  return traffic;
}

}  // namespace strata
