#include "nvme/cufile_engine.h"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <utility>

#include "nvme/thread_engine.h"
#include "nvme/transfer.h"

namespace strata {

class CuFileFiles::Registered final : public BlockMover {
 public:
  Registered(std::shared_ptr<GpuDriver> gpu, std::shared_ptr<CuFile> library)
      : gpu_(std::move(gpu)), library_(std::move(library)) {}
  // Before the files are closed, the memory is freed and the library's driver is closed: in the order of destruction.
  ~Registered() override {
    for (const std::span<std::byte> buffer : buffers_) library_->deregister_buffer(buffer.data());
    for (const auto& [file, registered] : files_) library_->deregister_file(registered.handle);
  }

  Status add(IoFile& file) {
    const int flags = ::fcntl(file.fd, F_GETFL);
    if (flags < 0 || (flags & O_DIRECT) == 0)
      return {Code::unsupported, file.path +
                                     ": goes through the page cache, and from there nothing is direct; put nvme.path on a file "
                                     "system with direct I/O (ext4, xfs)"};
    STRATA_ASSIGN_OR_RETURN(const cufile::Handle handle, library_->register_file(file.fd, file.path));
    files_.emplace(&file, File{file.shared_from_this(), handle});
    return {};
  }
  Status add(std::span<std::byte> buffer) {
    STRATA_RETURN_IF_ERROR(library_->register_buffer(buffer.data(), buffer.size()));
    buffers_.push_back(buffer);
    return {};
  }
  const CuFile& library() const { return *library_; }

  const char* name() const override { return "cuFile"; }
  Moved move(const Transfer& transfer) override {
    if (const Status status = gpu_->use_on_this_thread(); !status.ok()) return {0, status.message()};
    const auto file = files_.find(transfer.file);
    STRATA_CHECK(file != files_.end(), "requests of an engine for cuFile go to the files that were registered");
    std::byte* begin = transfer.data;
    for (const std::span<std::byte> buffer : buffers_)
      if (transfer.data >= buffer.data() && transfer.data < buffer.data() + buffer.size()) begin = buffer.data();
    const auto offset = static_cast<std::size_t>(transfer.data - begin);
    const cufile::Handle handle = file->second.handle;
    const std::int64_t moved = transfer.kind == IoRequest::Kind::read
                                   ? library_->read(handle, begin, transfer.bytes, transfer.offset, offset)
                                   : library_->write(handle, begin, transfer.bytes, transfer.offset, offset);
    if (moved >= -cufile::kFirstCode) return {moved, {}};
    return {0, "cuFile: " + CuFile::describe({static_cast<int>(-moved), 0})};
  }

 private:
  struct File {
    std::shared_ptr<IoFile> owner;  // keeps it open
    cufile::Handle handle;
  };
  const std::shared_ptr<GpuDriver> gpu_;
  const std::shared_ptr<CuFile> library_;
  std::map<const IoFile*, File> files_;
  std::vector<std::span<std::byte>> buffers_;
};

CuFileFiles::CuFileFiles(std::shared_ptr<Registered> registered) : registered_(std::move(registered)) {}

Result<std::shared_ptr<CuFileFiles>> CuFileFiles::open(std::shared_ptr<GpuDriver> gpu, std::span<IoFile* const> files,
                                                       std::span<const std::span<std::byte>> buffers,
                                                       std::vector<std::string>* notes) {
  STRATA_RETURN_IF_ERROR(gpu->use_on_this_thread());
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<CuFile> library,
                          CuFile::open(gpu->file_library(), [gpu] { return gpu->use_on_this_thread(); }));
  const auto registered = std::make_shared<Registered>(std::move(gpu), std::move(library));
  for (IoFile* file : files) STRATA_RETURN_IF_ERROR(registered->add(*file));
  std::string refused;
  for (const std::span<std::byte> buffer : buffers)
    if (const Status status = registered->add(buffer); !status.ok() && refused.empty()) refused = status.message();
  if (notes != nullptr) {
    if (!refused.empty())
      notes->push_back("windows on the GPU are not registered, so transfers to them take longer: " + refused);
    if (!registered->library().through_host().empty()) notes->push_back(registered->library().through_host());
  }
  return std::shared_ptr<CuFileFiles>(new CuFileFiles(registered));
}

std::unique_ptr<IoEngine> CuFileFiles::make_engine(const IoEngineOptions& options) const {
  return make_thread_engine(options, registered_);
}

}  // namespace strata
