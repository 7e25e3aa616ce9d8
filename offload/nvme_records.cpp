#include "offload/nvme_records.h"

namespace strata {

Result<std::unique_ptr<NvmeRecords>> NvmeRecords::create(const std::vector<std::string>& files,
                                                         const std::vector<std::size_t>& payload_bytes, std::size_t slots,
                                                         const NvmeOptions& options, StreamRef read_stream,
                                                         StreamRef write_stream, std::span<const std::span<std::byte>> windows,
                                                         std::vector<std::string>* notes) {
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
  if (notes == nullptr) return records;
  const std::string path = files.front() + ": ";
  notes->insert(notes->end(), records->file_->notes().begin(), records->file_->notes().end());
  if (!why_read.empty()) notes->push_back(path + why_read);
  if (!why_write.empty() && why_write != why_read) notes->push_back(path + why_write);
  return records;
}

void NvmeRecords::read(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  read_stream_.enqueue(
      name,
      [this, record, window, version = versions_[static_cast<std::size_t>(record)]] {
        return file_->read(*read_engine_, RecordId{record}, version, window);
      },
      amount);
}

void NvmeRecords::write(std::int64_t record, std::span<std::byte> window, const char* name, double amount) {
  write_stream_.enqueue(
      name,
      [this, record, window, version = ++versions_[static_cast<std::size_t>(record)]] {
        return file_->write(*write_engine_, RecordId{record}, version, window);
      },
      amount);
}

}  // namespace strata
