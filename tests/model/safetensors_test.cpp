// Headers that lie, files that are cut, and the writer's bytes. Each header case fails when its check is taken out.
#include <cstring>
#include <limits>

#include "support.h"

namespace strata::testing {
namespace {

using ::testing::Test;

std::string file_bytes(const std::string& header, std::size_t data_bytes, std::uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data_bytes, 'x');
}
std::string file_bytes(const std::string& header, std::size_t data_bytes) {
  return file_bytes(header, data_bytes, header.size());
}

Status open_status(const std::string& bytes) {
  const TempDir dir;
  write_bytes(dir / "m.safetensors", bytes);
  const Status status = SafetensorsFile::open(dir / "m.safetensors").status();
  EXPECT_TRUE(status.ok() || status.message().find("m.safetensors") != std::string::npos) << status.message();
  return status;
}

struct Lie {
  const char* name;
  std::string header;
  std::size_t data_bytes;
  std::string says;  // part of the message
  Code code = Code::corrupt;
};

class SafetensorsLies : public ::testing::TestWithParam<Lie> {};

TEST_P(SafetensorsLies, AreReported) {
  const Lie& lie = GetParam();
  const Status status = open_status(file_bytes(lie.header, lie.data_bytes));
  EXPECT_EQ(status.code(), lie.code);
  EXPECT_NE(status.message().find(lie.says), std::string::npos) << status.message();
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}
std::string two(const std::string& first, const std::string& second) {
  return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + first + R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" +
         second + "}}";
}

INSTANTIATE_TEST_SUITE_P(
    Header, SafetensorsLies,
    ::testing::Values(
        Lie{"NestedDtype", one("F32", "[1]", "[0,4]").replace(14, 5, nested(200'000)), 4, "nests deeper than 64"},
        Lie{"NestedShape", one("F32", nested(200'000), "[0,4]"), 4, "nests deeper than 64"},
        Lie{"NestedMetadata", R"({"__metadata__":{"a":)" + nested(200'000) + "}}", 0, "nests deeper than 64"},
        Lie{"OffsetsBeyondTheFile", one("F32", "[2]", "[0,8]"), 7, "beyond the file"},
        Lie{"OffsetsReversed", one("F32", "[0]", "[4,0]"), 4, "end before they begin"},
        Lie{"SizeIsNotShapeTimesType", one("F32", "[2]", "[0,4]"), 4, "needs 8"},
        Lie{"ShapeOverflows", one("F32", "[4294967296,4294967296]", "[0,4]"), 4, "more than 2^63"},
        Lie{"NegativeDim", one("F32", "[-1]", "[0,4]"), 4, "tensor 'a': shape"},
        Lie{"FractionalDim", one("F32", "[1.0]", "[0,4]"), 4, "tensor 'a': shape"},
        Lie{"ShapeIsText", one("F32", "\"1\"", "[0,4]"), 4, "tensor 'a': shape"},
        Lie{"OneOffset", one("F32", "[1]", "[0]"), 4, "data_offsets"},
        Lie{"HugeOffset", one("F32", "[1]", "[0,18446744073709551615]"), 4, "data_offsets"},
        Lie{"NegativeOffset", one("F32", "[1]", "[-4,0]"), 4, "data_offsets"},
        Lie{"UnknownType", one("Q4", "[1]", "[0,4]"), 4, "unknown dtype \"Q4\"", Code::unsupported},
        Lie{"NoType", R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a': no dtype"},
        Lie{"EntryIsANumber", R"({"a":1})", 4, "tensor 'a'"},
        Lie{"Overlap", two("[0,4]", "[2,6]"), 6, "inside the tensor before it"},
        Lie{"SameBytesTwice", two("[0,4]", "[0,4]"), 4, "inside the tensor before it"},
        Lie{"Hole", two("[0,4]", "[8,12]"), 12, "behind a hole"},
        Lie{"HoleAtTheStart", one("F32", "[1]", "[4,8]"), 8, "behind a hole"},
        Lie{"BytesBehindTheLastTensor", one("F32", "[1]", "[0,4]"), 5, "the file has 5"},
        Lie{"DataWithoutTensors", "{}", 1, "the file has 1"},
        Lie{"NameTwice",
            R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
            "'a' twice"},
        Lie{"KeyTwice", R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4, "'shape' twice"},
        Lie{"MetadataNotText", R"({"__metadata__":{"k":1}})", 0, "metadata"},
        Lie{"MetadataNotObject", R"({"__metadata__":[]})", 0, "metadata"}, Lie{"NotAnObject", "[]", 0, "not a JSON object"},
        Lie{"CutJson", R"({"a":)", 0, "not valid JSON"}, Lie{"BadUtf8", "{\"\xff\xfe\":1}", 0, "not valid JSON"},
        Lie{"DeepNesting", R"({"a":)" + std::string(100000, '['), 0, "nests deeper than 64"}),
    [](const auto& test) { return test.param.name; });

TEST(SafetensorsFile, HeaderLengthIsCheckedAgainstTheFile) {
  const std::string header = one("F32", "[1]", "[0,4]");
  const std::uint64_t all = header.size() + 4;
  const Status beyond = open_status(file_bytes(header, 4, all + 1));
  EXPECT_EQ(beyond.code(), Code::corrupt);
  EXPECT_NE(beyond.message().find("a header of " + std::to_string(all + 1)), std::string::npos) << beyond.message();
  EXPECT_EQ(open_status(file_bytes(header, 4, std::numeric_limits<std::uint64_t>::max())).code(), Code::corrupt);
  EXPECT_EQ(open_status(file_bytes(header, 4, 0)).code(), Code::corrupt);
  EXPECT_TRUE(open_status(file_bytes(header, 4)).ok());
}

TEST(SafetensorsFile, EveryTruncationIsReported) {
  const std::string whole = file_bytes(one("F32", "[2]", "[0,8]") + "  ", 8);
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_EQ(open_status(whole.substr(0, n)).code(), Code::corrupt) << n;
  EXPECT_TRUE(open_status(whole).ok());
}

TEST(SafetensorsFile, MissingFileAndFolderAreErrors) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::open(dir / "none").status().code(), Code::not_found);
  EXPECT_FALSE(SafetensorsFile::open(dir.path()).ok());
}

TEST(SafetensorsFile, EmptyTensorsAndScalarsAreFine) {
  EXPECT_TRUE(open_status(file_bytes("{}", 0)).ok());
  EXPECT_TRUE(open_status(file_bytes(one("F32", "[]", "[0,4]"), 4)).ok());
  EXPECT_TRUE(open_status(file_bytes(one("F32", "[3,0]", "[0,0]"), 0)).ok());
}

SafetensorsWriter make_writer(const std::string& path) {
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(path,
                                                               {{"b", SafetensorsType::f16, {3}},
                                                                {"a", SafetensorsType::bf16, {2, 2}},
                                                                {"opaque", SafetensorsType::u8, {5}},
                                                                {"empty", SafetensorsType::f32, {0, 7}},
                                                                {"z", SafetensorsType::i32, {1}},
                                                                {"f", SafetensorsType::f32, {2}}},
                                                               {{"who", "test"}});
  throw_if_error(writer.status());
  return std::move(writer).value();
}

const std::vector<float> kF = {1.5f, -0.0f};
const std::vector<float> kA = {1.0f, 0.333333343f, -65504.0f, std::numeric_limits<float>::infinity()};
const std::vector<float> kB = {0.1f, 1e-7f, 65504.0f};

void write_all(SafetensorsWriter& writer) {
  const std::int32_t z = -7;
  throw_if_error(writer.append_f32("f", std::span(kF).first(1)));
  throw_if_error(writer.append_f32("f", std::span(kF).subspan(1)));
  throw_if_error(writer.append("z", std::as_bytes(std::span(&z, 1))));
  throw_if_error(writer.append_f32("a", kA));
  throw_if_error(writer.append_f32("b", kB));
  throw_if_error(writer.append("opaque", std::as_bytes(std::span("hello", 5))));
}

TEST(SafetensorsWriter, WhatIsWrittenIsRead) {
  const TempDir dir;
  SafetensorsWriter writer = make_writer(dir / "m");
  write_all(writer);
  throw_if_error(writer.finish(true));
  const SafetensorsFile file = SafetensorsFile::open(dir / "m").value();
  EXPECT_EQ(std::filesystem::file_size(dir / "m"), writer.file_bytes());
  EXPECT_EQ(file.metadata().at("who"), "test");
  std::vector<float> a(4), middle(2);
  throw_if_error(file.read_f32(*file.find("a"), 0, a));
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i], to_float(to_bf16(kA[i])));
  throw_if_error(file.read_f32(*file.find("a"), 1, middle));
  EXPECT_EQ(middle[1], a[2]);
  std::vector<float> b(3);
  throw_if_error(file.read_f32(*file.find("b"), 0, b));
  for (std::size_t i = 0; i < b.size(); ++i) EXPECT_EQ(b[i], to_float(to_f16(kB[i])));
  std::string opaque(3, '\0');
  throw_if_error(file.read(*file.find("opaque"), 2, std::as_writable_bytes(std::span(opaque))));
  EXPECT_EQ(opaque, "llo");
  EXPECT_EQ(file.read_f32(*file.find("opaque"), 0, b).code(), Code::unsupported);
  EXPECT_EQ(file.find("none"), nullptr);
}

TEST(SafetensorsWriter, SameContentGivesSameAlignedBytes) {
  const TempDir dir;
  for (const char* name : {"1", "2"}) {
    SafetensorsWriter writer = make_writer(dir / name);
    write_all(writer);
    throw_if_error(writer.finish(false));
    for (const SafetensorsInfo& t : writer.tensors())
      EXPECT_EQ((writer.file_bytes() - writer.tensors().back().end + t.begin) % size_of(t.type), 0u) << t.name;
  }
  EXPECT_EQ(read_bytes(dir / "1"), read_bytes(dir / "2"));
}

TEST(SafetensorsWriter, UnfinishedFileIsRemoved) {
  const TempDir dir;
  { SafetensorsWriter writer = make_writer(dir / "m"); }
  EXPECT_FALSE(std::filesystem::exists(dir / "m"));
}

TEST(SafetensorsWriter, WrongOrderAndWrongSizesAreContractViolations) {
  const TempDir dir;
  SafetensorsWriter writer = make_writer(dir / "m");
  EXPECT_THROW((void)writer.append_f32("a", kA), ContractViolation);
  const std::vector<float> three(3);
  EXPECT_THROW((void)writer.append_f32("f", three), ContractViolation);
  EXPECT_THROW((void)writer.finish(false), ContractViolation);
}

TEST(SafetensorsWriter, NameTwiceIsAnError) {
  const TempDir dir;
  const Status status =
      SafetensorsWriter::create(dir / "m", {{"a", SafetensorsType::f32, {1}}, {"a", SafetensorsType::u8, {1}}}, {}).status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("'a'"), std::string::npos);
}

TEST(SafetensorsWriter, FullDiskIsAStatusWithPathAndReason) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempDir dir;
  std::filesystem::create_symlink("/dev/full", dir / "full");
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(dir / "full", {{"a", SafetensorsType::f32, {1 << 20}}}, {});
  throw_if_error(writer.status());
  const std::vector<float> values(1 << 20);
  const Status status = writer->append_f32("a", values);
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_NE(status.message().find(dir / "full"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("No space left"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace strata::testing
