// Records in files on NVMe, read and written by two streams: what every store has there. On the dry backend there are no files,
// and what is enqueued is dropped. Called from the step's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "nvme/record_file.h"
#include "nvme/record_memory.h"
#include "runtime/stream.h"

namespace strata {

// Where records are read and written without passing CPU memory. In the gpu tier, but for the bounce buffers.
struct GpuDirectMemory {
  std::vector<std::span<std::byte>> windows = {};
  // By direction; empty where the gpu tier is host memory.
  std::span<std::byte> read_scratch = {}, write_scratch = {};  // GpuRecordMemory::kDeviceBytes each
  std::span<std::byte> read_bounce = {}, write_bounce = {};    // kHostBytes, page-locked
};

struct NvmeOptions {
  std::vector<double> weights = {};  // of each path; empty: measured
  IoEngineOptions io = {};
  TurnOptions turns = {};  // of the ranks of this host at each folder
  // Optimizer records that the GPU updates move between the drives and its memory (cuFile; on an emulated one, whose memory is
  // the host's, by the engines of the host).
  bool gpu_direct = false;
  // Called twice for each set of files: for reading, then for writing.
  std::function<Result<std::unique_ptr<IoEngine>>(const IoEngineOptions&, std::string* why_fallback)> make_engine =
      make_io_engine;
};

class NvmeRecords {
 public:
  // payload_bytes: of each record; none: no files are made. slots: see RecordFileOptions. windows: buffers that will be used
  // most, for the engines to register. direct: null, or what read_direct() and write_direct() use; on the cuda backend cuFile
  // must then be there. `notes` (may be null) receives lines worth telling the user.
  static Result<std::unique_ptr<NvmeRecords>> create(const std::vector<std::string>& files,
                                                     const std::vector<std::size_t>& payload_bytes, std::size_t slots,
                                                     const NvmeOptions& options, StreamRef read_stream, StreamRef write_stream,
                                                     std::span<const std::span<std::byte>> windows,
                                                     std::vector<std::string>* notes, const GpuDirectMemory* direct = nullptr);
  // What is enqueued is complete: the owner has waited for both streams.
  ~NvmeRecords() = default;

  static std::size_t window_bytes(std::size_t payload_bytes) { return RecordFile::buffer_bytes_for(payload_bytes); }
  // Enqueue a transfer of the record's newest version, as enqueued so far, or of the next one. window: from a cpu arena, at
  // least window_bytes() long. name: a literal. amount: see StreamRef::enqueue.
  void read(std::int64_t record, std::span<std::byte> window, const char* name, double amount);
  void write(std::int64_t record, std::span<std::byte> window, const char* name, double amount);

  // The same for a window of the gpu tier.
  void read_direct(std::int64_t record, std::span<std::byte> window, const char* name, double amount);
  void write_direct(std::int64_t record, std::span<std::byte> window, const char* name, double amount);

  // The newest version of each record; restoring older ones makes what was written since the next to be written over.
  const std::vector<std::uint64_t>& versions() const { return versions_; }
  void restore(std::vector<std::uint64_t> versions) { versions_ = std::move(versions); }

  std::size_t bytes() const { return bytes_; }
  // Of each path, since the last call; empty where there are no files.
  std::vector<PathTraffic> take_traffic() { return file_ ? file_->take_traffic() : std::vector<PathTraffic>(); }

 private:
  NvmeRecords(std::size_t records, StreamRef read_stream, StreamRef write_stream)
      : read_stream_(read_stream), write_stream_(write_stream), versions_(records) {}

  // One direction of one kind of memory: used by that direction's stream only.
  struct Way {
    IoEngine* engine = nullptr;
    RecordMemory* memory = nullptr;
  };
  Status open_direct(const GpuDirectMemory& direct, const IoEngineOptions& options, std::vector<std::string>* notes);
  void enqueue_read(std::int64_t record, std::span<std::byte> window, const Way& way, const char* name, double amount);
  void enqueue_write(std::int64_t record, std::span<std::byte> window, const Way& way, const char* name, double amount);

  StreamRef read_stream_, write_stream_;
  std::vector<std::uint64_t> versions_;
  std::size_t bytes_ = 0;
  std::unique_ptr<RecordFile> file_;
  HostRecordMemory host_memory_;
  std::unique_ptr<IoEngine> read_engine_, write_engine_;
  std::unique_ptr<RecordMemory> read_gpu_memory_, write_gpu_memory_;
  std::unique_ptr<IoEngine> read_gpu_engine_, write_gpu_engine_;
  Way read_, write_, read_direct_, write_direct_;
};

}  // namespace strata
