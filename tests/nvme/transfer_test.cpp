#include "nvme/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kBlock = 8192;

IoFile& some_file() {
  static IoFile file;
  file.path = "/some/file";
  return file;
}

IoRequest request(std::size_t bytes, std::uint64_t offset, IoRequest::Kind kind = IoRequest::Kind::read) {
  static std::byte memory[1 << 16];
  return {kind, &some_file(), memory, bytes, offset};
}

TEST(Silence, EndsAfterTheLimitUnlessSomethingWasHeard) {
  using std::chrono::milliseconds;
  Silence silence(milliseconds(800));
  EXPECT_EQ(silence.part(), milliseconds(100));
  for (int i = 0; i < 7; ++i) EXPECT_FALSE(silence.add(milliseconds(100)));
  silence.heard();
  for (int i = 0; i < 15; ++i) EXPECT_FALSE(silence.add(milliseconds(50)));
  EXPECT_TRUE(silence.add(milliseconds(50)));
}

TEST(Silence, DoesNotCountTheTimeInWhichTheProcessWasStopped) {
  Silence silence(std::chrono::milliseconds(800));
  EXPECT_FALSE(silence.add(std::chrono::hours(1)));
  EXPECT_GE(Silence(std::chrono::milliseconds(1)).part().count(), 1) << "a wait of nothing would spin";
}

TEST(TransferQueue, EmptyRequestsAreFinishedAtOnce) {
  const IoRequest requests[] = {request(0, 0), request(0, 4096)};
  TransferQueue queue(requests, kBlock, 2);
  EXPECT_TRUE(queue.finished());
  EXPECT_EQ(queue.next(), nullptr);
  EXPECT_TRUE(TransferQueue({}, kBlock, 2).finished());
}

TEST(TransferQueue, CutsIntoBlocksWithTheRestLast) {
  const IoRequest requests[] = {request(2 * kBlock + 1, 4096), request(0, 0), request(kBlock, 1 << 20)};
  TransferQueue queue(requests, kBlock, 16);
  const std::size_t sizes[] = {kBlock, kBlock, 1, kBlock};
  const std::uint64_t offsets[] = {4096, 4096 + kBlock, 4096 + 2 * kBlock, 1 << 20};
  for (int i = 0; i < 4; ++i) {
    Transfer* t = queue.next();
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->bytes, sizes[i]);
    EXPECT_EQ(t->offset, offsets[i]);
    EXPECT_EQ(t->data - requests[i == 3 ? 2 : 0].data, i == 3 ? 0 : static_cast<std::ptrdiff_t>(t->offset - 4096));
    EXPECT_FALSE(queue.complete(t, static_cast<std::int64_t>(t->bytes)));
  }
  EXPECT_EQ(queue.next(), nullptr);
  EXPECT_TRUE(queue.finished());
  EXPECT_TRUE(queue.status().ok());
}

TEST(TransferQueue, KeepsToTheQueueDepth) {
  const IoRequest requests[] = {request(4 * kBlock, 0)};
  TransferQueue queue(requests, kBlock, 2);
  Transfer* first = queue.next();
  ASSERT_NE(first, nullptr);
  ASSERT_NE(queue.next(), nullptr);
  EXPECT_EQ(queue.next(), nullptr);
  EXPECT_EQ(queue.in_flight(), 2U);
  queue.complete(first, kBlock);
  EXPECT_NE(queue.next(), nullptr);
}

// A slow file must not take the places that a fast one could use.
TEST(TransferQueue, EveryFileHasAQueueOfItsOwn) {
  IoFile slow, fast;
  static std::byte memory[8 * kBlock];
  const IoRequest requests[] = {{IoRequest::Kind::read, &slow, memory, 8 * kBlock, 0},
                                {IoRequest::Kind::read, &fast, memory, 3 * kBlock, 0},
                                {IoRequest::Kind::read, &fast, memory, kBlock, 4 * kBlock}};
  TransferQueue queue(requests, kBlock, 2);
  EXPECT_EQ(queue.capacity(), 4U);
  std::vector<IoFile*> order;
  std::vector<Transfer*> of_fast;
  while (Transfer* t = queue.next()) {
    order.push_back(t->file);
    if (t->file == &fast) of_fast.push_back(t);
  }
  EXPECT_EQ(order, (std::vector<IoFile*>{&slow, &fast, &slow, &fast})) << "in turns";
  queue.complete(of_fast[0], kBlock);
  queue.complete(of_fast[1], kBlock);
  for (const std::uint64_t offset : {2 * kBlock, 4 * kBlock}) {
    Transfer* t = queue.next();
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->file, &fast);
    EXPECT_EQ(t->offset, offset);
  }
  EXPECT_EQ(queue.next(), nullptr) << "the slow file's queue is full";
  EXPECT_EQ(queue.in_flight(), 4U);
}

TEST(TransferQueue, OnlyWhatMovedSomethingIsTimed) {
  IoFile file;
  static std::byte memory[2 * kBlock];
  const IoRequest requests[] = {{IoRequest::Kind::write, &file, memory, 2 * kBlock, 0}};
  TransferQueue queue(requests, kBlock, 2);
  queue.complete(queue.next(), kBlock);
  queue.complete(queue.next(), -EIO);
  EXPECT_EQ(file.reads.take().count, 0U);
  const LatencySummary writes = file.writes.take();
  EXPECT_EQ(writes.count, 1U);
  EXPECT_EQ(writes.bytes, kBlock);
}

TEST(TransferQueue, ShortTransferGoesOnAtTheLastWholeBlock) {
  const IoRequest requests[] = {request(kBlock, 4096)};
  TransferQueue queue(requests, kBlock, 1);
  Transfer* t = queue.next();
  queue.complete(t, 4096 + 512);
  EXPECT_FALSE(queue.finished());
  t = queue.next();
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(t->offset, 8192U);
  EXPECT_EQ(t->bytes, 4096U);
  EXPECT_EQ(t->data, requests[0].data + 4096);
  queue.complete(t, 4096);
  EXPECT_TRUE(queue.finished());
  EXPECT_TRUE(queue.status().ok());
}

TEST(TransferQueue, EndOfFileIsAnErrorAndNotALoop) {
  for (const std::int64_t moved : {0, 512}) {
    const IoRequest requests[] = {request(4096, 8192)};
    TransferQueue queue(requests, kBlock, 1);
    int attempts = 0;
    while (Transfer* t = queue.next()) {
      queue.complete(t, moved);
      ASSERT_LT(++attempts, 100);
    }
    EXPECT_TRUE(queue.finished());
    EXPECT_EQ(queue.status().code(), Code::io_error);
    EXPECT_THAT(queue.status().message(), HasSubstr("read of 4096 bytes at offset 8192: /some/file: only " +
                                                    std::to_string(moved) + " bytes were transferred; the file ends there"));
  }
}

TEST(TransferQueue, InterruptedTransfersAreRepeated) {
  const IoRequest requests[] = {request(4096, 0)};
  TransferQueue queue(requests, kBlock, 1);
  EXPECT_FALSE(queue.complete(queue.next(), -EINTR));
  EXPECT_TRUE(queue.complete(queue.next(), -EAGAIN)) << "a busy device deserves a pause";
  EXPECT_FALSE(queue.complete(queue.next(), 4096));
  EXPECT_TRUE(queue.finished());
  EXPECT_TRUE(queue.status().ok());
}

TEST(TransferQueue, ADeviceThatIsBusyForeverFails) {
  const IoRequest requests[] = {request(4096, 0)};
  TransferQueue queue(requests, kBlock, 1);
  int attempts = 0;
  while (Transfer* t = queue.next()) {
    queue.complete(t, -EAGAIN);
    ASSERT_LT(++attempts, 100000);
  }
  EXPECT_THAT(queue.status().message(), HasSubstr("Resource temporarily unavailable"));
}

TEST(TransferQueue, FirstFailureIsReportedAfterTheRestHasLanded) {
  const IoRequest requests[] = {request(4 * kBlock, 0, IoRequest::Kind::write)};
  TransferQueue queue(requests, kBlock, 3);
  Transfer* a = queue.next();
  Transfer* b = queue.next();
  Transfer* c = queue.next();
  queue.complete(b, -EIO);
  EXPECT_FALSE(queue.finished());
  EXPECT_EQ(queue.next(), nullptr) << "nothing is issued after a failure";
  queue.complete(a, -ENOSPC);
  queue.complete(c, kBlock);
  EXPECT_TRUE(queue.finished());
  EXPECT_EQ(queue.status().message(), "write of 8192 bytes at offset 8192: /some/file: Input/output error");
}

}  // namespace
}  // namespace strata
