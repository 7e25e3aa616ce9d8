#include "runtime/trace.h"

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <map>
#include <mutex>
#include <vector>

namespace strata {
namespace {

std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      quoted += escape;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace

class TraceRecorder::Impl {
 public:
  struct Span {
    int lane;
    const char* name;
    TraceClock::time_point begin, end;
  };
  std::atomic<bool> enabled{false};
  mutable std::mutex mutex;
  std::map<std::string, int> lanes;
  std::vector<double> busy;
  std::vector<Span> spans;
  TraceClock::time_point origin = TraceClock::now();
};

TraceRecorder::TraceRecorder() : impl_(std::make_unique<Impl>()) {}
TraceRecorder::~TraceRecorder() = default;

void TraceRecorder::start() {
  const std::lock_guard lock(impl_->mutex);
  impl_->spans.clear();
  impl_->origin = TraceClock::now();
  impl_->enabled = true;
}
void TraceRecorder::stop() { impl_->enabled = false; }
bool TraceRecorder::enabled() const { return impl_->enabled; }

int TraceRecorder::lane(const std::string& name) {
  const std::lock_guard lock(impl_->mutex);
  const auto [it, fresh] = impl_->lanes.emplace(name, static_cast<int>(impl_->busy.size()));
  if (fresh) impl_->busy.push_back(0.0);
  return it->second;
}

void TraceRecorder::span(int lane, const char* name, TraceClock::time_point begin, TraceClock::time_point end) {
  const std::lock_guard lock(impl_->mutex);
  impl_->busy[static_cast<std::size_t>(lane)] += std::chrono::duration<double>(end - begin).count();
  if (impl_->enabled) impl_->spans.push_back({lane, name, begin, end});
}

double TraceRecorder::busy_seconds(int lane) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->busy[static_cast<std::size_t>(lane)];
}

Status TraceRecorder::write_json(const std::string& path, const std::string& process, int pid) const {
  const std::lock_guard lock(impl_->mutex);
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return Status::from_errno("create trace", path, errno);
  const auto microseconds = [&](TraceClock::time_point t) {
    return std::chrono::duration<double, std::micro>(t - impl_->origin).count();
  };
  std::fprintf(file, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
  std::fprintf(file, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":%s}}", pid,
               json_string(process).c_str());
  for (const auto& [name, lane] : impl_->lanes)
    std::fprintf(file, ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":%s}}", pid, lane,
                 json_string(name).c_str());
  for (const Impl::Span& s : impl_->spans)
    std::fprintf(file, ",\n{\"ph\":\"X\",\"name\":%s,\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f}",
                 json_string(s.name).c_str(), pid, s.lane, microseconds(s.begin), microseconds(s.end) - microseconds(s.begin));
  std::fprintf(file, "\n]}\n");
  const bool failed = std::ferror(file) != 0;
  const int error = errno;
  if (std::fclose(file) != 0 || failed) return Status::from_errno("write trace", path, failed ? error : errno);
  return {};
}

}  // namespace strata
