#include "offload/nvme_records.h"

#include "nvme/cufile_engine.h"
#include "nvme/gpu_record_memory.h"

namespace strata {

Result<std::unique_ptr<NvmeRecords>> NvmeRecords::create(const std::vector<std::string>& files,
                                                         const std::vector<std::size_t>& payload_bytes, std::size_t slots,
                                                         const NvmeOptions& options, StreamRef read_stream,
                                                         StreamRef write_stream, std::span<const std::span<std::byte>> windows,
                                                         std::vector<std::string>* notes, const GpuDirectMemory* direct) {
  std::unique_ptr<NvmeRecords> records(new NvmeRecords(payload_bytes.size(), read_stream, write_stream));
  if (payload_bytes.empty()) return records;
  records->bytes_ = RecordFile::file_bytes(payload_bytes, slots);
  if (read_stream.backend() == Backend::dry) return records;
  const RecordFileOptions file_options{.weights = options.weights, .slots = slots, .io = options.io, .turns = options.turns};
  STRATA_ASSIGN_OR_RETURN(records->file_, RecordFile::create(files, payload_bytes, file_options));
  std::string why_read, why_write;
  STRATA_ASSIGN_OR_RETURN(records->read_engine_, options.make_engine(options.io, &why_read));
  STRATA_ASSIGN_OR_RETURN(records->write_engine_, options.make_engine(options.io, &why_write));
  for (IoEngine* engine : {records->read_engine_.get(), records->write_engine_.get()}) {
    engine->register_files(records->file_->io_files());
    if (!windows.empty()) engine->register_buffers(windows);
  }
  records->read_ = records->read_direct_ = {records->read_engine_.get(), &records->host_memory_};
  records->write_ = records->write_direct_ = {records->write_engine_.get(), &records->host_memory_};
  if (notes != nullptr) {
    const std::string path = files.front() + ": ";
    notes->insert(notes->end(), records->file_->notes().begin(), records->file_->notes().end());
    if (!why_read.empty()) notes->push_back(path + why_read);
    if (!why_write.empty() && why_write != why_read) notes->push_back(path + why_write);
  }
  if (direct != nullptr && read_stream.backend() == Backend::cuda) {
    const Status status = records->open_direct(*direct, options.io, notes);
    STRATA_RETURN_IF_ERROR(status.with_context("nvme.gpu_direct is on (false moves these states through host memory)"));
  }
  return records;
}

Status NvmeRecords::open_direct(const GpuDirectMemory& direct, const IoEngineOptions& options,
                                std::vector<std::string>* notes) {
  Device& device = read_stream_.device();
  STRATA_ASSIGN_OR_RETURN(const auto known, CuFileFiles::open(device.shared_gpu(), file_->io_files(), direct.windows, notes));
  read_gpu_engine_ = known->make_engine(options);
  write_gpu_engine_ = known->make_engine(options);
  GpuDriver& gpu = device.gpu();
  STRATA_ASSIGN_OR_RETURN(auto read_queue, gpu.make_queue("nvme read, checksums"));
  STRATA_ASSIGN_OR_RETURN(auto write_queue, gpu.make_queue("nvme write, checksums"));
  read_gpu_memory_ = std::make_unique<GpuRecordMemory>(gpu, std::move(read_queue), direct.read_scratch, direct.read_bounce);
  write_gpu_memory_ = std::make_unique<GpuRecordMemory>(gpu, std::move(write_queue), direct.write_scratch, direct.write_bounce);
  read_direct_ = {read_gpu_engine_.get(), read_gpu_memory_.get()};
  write_direct_ = {write_gpu_engine_.get(), write_gpu_memory_.get()};
  return {};
}

void NvmeRecords::enqueue_read(std::int64_t record, std::span<std::byte> window, const Way& way, const char* name,
                               double amount) {
  read_stream_.enqueue(
      name,
      [this, record, window, way, version = versions_[static_cast<std::size_t>(record)]] {
        return file_->read(*way.engine, RecordId{record}, version, window, *way.memory);
      },
      amount);
}

void NvmeRecords::enqueue_write(std::int64_t record, std::span<std::byte> window, const Way& way, const char* name,
                                double amount) {
  write_stream_.enqueue(
      name,
      [this, record, window, way, version = ++versions_[static_cast<std::size_t>(record)]] {
        return file_->write(*way.engine, RecordId{record}, version, window, *way.memory);
      },
      amount);
}

void NvmeRecords::read(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  enqueue_read(record, window, read_, name, amount);
}
void NvmeRecords::write(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  enqueue_write(record, window, write_, name, amount);
}
void NvmeRecords::read_direct(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  enqueue_read(record, window, read_direct_, name, amount);
}
void NvmeRecords::write_direct(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  enqueue_write(record, window, write_direct_, name, amount);
}

}  // namespace strata
