#include "runtime/trace.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace strata {
namespace {

using std::chrono::microseconds;

// Recognises JSON; enough to know that a viewer can parse the file.
class JsonChecker {
 public:
  explicit JsonChecker(const std::string& text) : text_(text) {}
  bool ok() { return value() && (skip(), at_ == text_.size()); }

 private:
  void skip() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool eat(char c) {
    skip();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool string() {
    if (!eat('"')) return false;
    for (; at_ < text_.size(); ++at_) {
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c < 0x20) return false;
      if (c == '"') return ++at_, true;
      if (c == '\\') ++at_;
    }
    return false;
  }
  template <class Item>
  bool list(char open, char close, Item item) {
    if (!eat(open)) return false;
    if (eat(close)) return true;
    do
      if (!item()) return false;
    while (eat(','));
    return eat(close);
  }
  bool number() {
    skip();
    const std::size_t begin = at_;
    while (at_ < text_.size() && std::string("+-.eE0123456789").find(text_[at_]) != std::string::npos) ++at_;
    return at_ > begin;
  }
  bool value() {
    skip();
    if (at_ >= text_.size()) return false;
    if (text_[at_] == '{') return list('{', '}', [this] { return string() && eat(':') && value(); });
    if (text_[at_] == '[') return list('[', ']', [this] { return value(); });
    if (text_[at_] == '"') return string();
    return number();
  }
  const std::string& text_;
  std::size_t at_ = 0;
};

std::string written(const TraceRecorder& recorder, const std::string& process) {
  const std::string path = ::testing::TempDir() + "strata_trace_test.json";
  const Status status = recorder.write_json(path, process, 3);
  EXPECT_TRUE(status.ok()) << status.message();
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  std::remove(path.c_str());
  return text.str();
}

TEST(Trace, WritesLanesAndSpansAsJson) {
  TraceRecorder recorder;
  const int compute = recorder.lane("compute"), copy = recorder.lane("copy");
  EXPECT_NE(compute, copy);
  EXPECT_EQ(recorder.lane("compute"), compute);
  recorder.start();
  const auto begin = TraceClock::now();
  recorder.span(compute, "matmul", begin, begin + microseconds(250));
  recorder.span(copy, "upload", begin + microseconds(50), begin + microseconds(150));
  const std::string text = written(recorder, "rank 0");
  EXPECT_TRUE(JsonChecker(text).ok()) << text;
  for (const char* part : {"\"rank 0\"", "\"compute\"", "\"copy\"", "\"matmul\"", "\"dur\":250.000", "\"pid\":3"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
}

TEST(Trace, NamesWithQuotesAndBackslashesStayJson) {
  TraceRecorder recorder;
  recorder.lane("a \"quoted\" \\ lane\n");
  const std::string text = written(recorder, "C:\\\"x\"");
  EXPECT_TRUE(JsonChecker(text).ok()) << text;
}

TEST(Trace, CountsBusyTimeAlsoWhenOffButKeepsNoSpan) {
  TraceRecorder recorder;
  const int lane = recorder.lane("compute");
  const auto begin = TraceClock::now();
  recorder.span(lane, "unseen", begin, begin + microseconds(1500));
  EXPECT_DOUBLE_EQ(recorder.busy_seconds(lane), 1.5e-3);
  EXPECT_FALSE(recorder.enabled());
  EXPECT_EQ(written(recorder, "p").find("unseen"), std::string::npos);
}

TEST(Trace, StartForgetsEarlierSpansAndStopEndsThem) {
  TraceRecorder recorder;
  const int lane = recorder.lane("compute");
  const auto now = TraceClock::now();
  recorder.start();
  recorder.span(lane, "first", now, now);
  recorder.start();
  recorder.span(lane, "second", now, now);
  recorder.stop();
  recorder.span(lane, "third", now, now);
  const std::string text = written(recorder, "p");
  EXPECT_EQ(text.find("first"), std::string::npos);
  EXPECT_NE(text.find("second"), std::string::npos);
  EXPECT_EQ(text.find("third"), std::string::npos);
}

TEST(Trace, ThreadsMayRecordAtOnce) {
  TraceRecorder recorder;
  recorder.start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&recorder, t] {
      const int lane = recorder.lane("lane " + std::to_string(t % 2));
      for (int i = 0; i < 200; ++i) recorder.span(lane, "work", TraceClock::now(), TraceClock::now());
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(JsonChecker(written(recorder, "p")).ok());
}

TEST(Trace, AnUnwritablePathIsAnErrorThatNamesIt) {
  const TraceRecorder recorder;
  for (const char* path : {"/nonexistent/dir/trace.json", "/dev/full"}) {
    const Status status = recorder.write_json(path, "p", 0);
    EXPECT_EQ(status.code(), Code::io_error) << path;
    EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace strata
