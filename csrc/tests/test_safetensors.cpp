#include <fcntl.h>
#include <unistd.h>

#include "artifact.hpp"
#include "check.hpp"
#include "pygrade/policy.hpp"
#include "util/files.hpp"
#include "util/safetensors.hpp"

using namespace pygrade::tests;
using namespace pygrade::detail;

namespace {
std::string file(const std::string& header, std::size_t data) {
  return Artifact::frame(header) + std::string(data, '\1');
}

void check_refused(const std::string& content, const std::string& reason) {
  CHECK_THROWS(SafetensorsError, reason, read_safetensors(bytes(content)));
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
}
}  // namespace

// The digests of texts of all lengths in pieces, hashed together, as Python's hashlib gives them.
TEST(sha256_gives_what_hashlib_gives_with_and_without_the_processors_instructions) {
  for (const bool plain : {true, false}) {
    Sha256 all(plain);
    for (std::size_t size = 0; size < 1000; ++size) {
      std::string text(size, '\0');
      for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + size);
      Sha256 digest(plain);
      for (std::size_t at = 0, piece = 1 + size % 131; at < size; at += piece)
        digest.update(bytes(text).subspan(at, std::min(piece, size - at)));
      all.update(bytes(digest.hex()));
    }
    CHECK_EQUAL(all.hex(), "503391887e48045d1bb4dfd0afbe9ef8da76a43a16a143c3fee115f7df9cac8d");
  }
}

TEST(tensors_come_back_by_name) {
  Artifact artifact;
  artifact.tensors = {{"b", {{2, 2}, {1, 2, 3, 4}}}, {"a", {{3}, {5, 6, 7}}}, {"empty", {{0, 4}, {}}}};
  const std::string content = artifact.safetensors();
  const auto tensors = read_safetensors(bytes(content));
  CHECK_EQUAL(tensors.size(), std::size_t{3});
  CHECK_EQUAL(tensors[0].name, "a");
  const std::int64_t shape[] = {2, 2};
  CHECK_EQUAL(float_tensor(tensors, "b", shape), (std::vector<float>{1, 2, 3, 4}));
  CHECK_THROWS(SafetensorsError, "tensor \"a\" is [3]; expected [2, 2]", float_tensor(tensors, "a", shape));
  CHECK_THROWS(SafetensorsError, "tensor \"c\" is absent", float_tensor(tensors, "c", shape));
}

TEST(other_types_are_read_and_refused_as_float32) {
  const std::string content = file("{\"__metadata__\":{\"x\":\"y\"}," + entry("d", "F64", "2", "0,16") + "," +
                                       entry("i", "I64", "", "16,24") + "}  ",
                                   24);
  const auto tensors = read_safetensors(bytes(content));
  CHECK(tensors[0].type == TensorType::float64 && tensors[1].type == TensorType::int64);
  const std::int64_t shape[] = {2};
  CHECK_THROWS(SafetensorsError, "tensor \"d\" is not F32", float_tensor(tensors, "d", shape));
}

TEST(bytes_and_metadata_are_read) {
  const std::string content = file("{\"__metadata__\":{\"x\":\"y\"}," + entry("u", "U8", "3", "0,3") + "}", 3);
  TensorMetadata metadata;
  const auto tensors = read_safetensors(bytes(content), &metadata);
  CHECK(find_tensor(tensors, "u").type == TensorType::uint8 && tensors[0].bytes.size() == 3);
  CHECK_THROWS(SafetensorsError, "tensor \"v\" is absent", find_tensor(tensors, "v"));
  CHECK_EQUAL(find_text(metadata, "x"), "y");
  CHECK_EQUAL(find_text(metadata, "z"), "");
  const std::string number = file("{\"__metadata__\":{\"x\":1}}", 0);
  CHECK_THROWS(SafetensorsError, "'x' is not a string", read_safetensors(bytes(number), &metadata));
  CHECK(read_safetensors(bytes(number)).empty());
}

TEST(damage_is_named) {
  check_refused("", "truncated");
  check_refused("1234567", "truncated");
  check_refused(std::string(8, '\xff'), "the header says it has 18446744073709551615 bytes");
  check_refused(file("{}", 0).substr(0, 9), "the header says it has 2 bytes; the file has 1");
  check_refused(file("", 0), "the header: byte 0");
  check_refused(file("[]", 0), "it is not an object");
  check_refused(file(" {}", 0), "it is not an object");
  check_refused(file("{", 0), "the header: byte 1");
  check_refused(file("{\"a\":1}", 0), "tensor \"a\": its entry");
  check_refused(file("{" + entry("a", "F16", "2", "0,4") + "}", 4), "expected F32, F64, I64, U8 or BOOL");
  check_refused(file("{" + entry("a", "F32", "2", "0,4") + "}", 4), "shape [2] needs 8");
  check_refused(file("{" + entry("a", "F32", "-1", "0,4") + "}", 4), "'shape' holds");
  check_refused(file("{" + entry("a", "F32", "4294967296,4294967296", "0,0") + "}", 0), "too large");
  check_refused(file("{" + entry("a", "F32", "1", "4,0") + "}", 4), "'data_offsets' are 4 … 0");
  check_refused(file("{" + entry("a", "F32", "2", "0,8") + "}", 4), "the file has 4 bytes");
  check_refused(file("{" + entry("a", "F32", "1", "0,4,8") + "}", 4), "must be two numbers");
  check_refused(file("{" + entry("a", "F32", "1", "0,4") + "," + entry("b", "F32", "1", "0,4") + "}", 4), "overlaps");
  check_refused(file("{" + entry("a", "F32", "1", "0,4") + "," + entry("b", "F32", "1", "8,12") + "}", 12), "gap");
  check_refused(file("{" + entry("a", "F32", "1", "0,4") + "}", 5), "after the last tensor");
  check_refused(file("{" + entry("a", "F32", "1,1,1,1,1,1,1,1,1", "0,4") + "}", 4), "8 dimensions");
}

// Beyond 2^30 bytes; nothing of the file is on the disk but its ends.
TEST(a_tensor_of_more_than_a_gigabyte_is_a_view_of_the_content) {
  const auto path =
      std::filesystem::temp_directory_path() / ("pygrade_test_large_" + std::to_string(std::random_device{}()));
  constexpr std::size_t size = (std::size_t{1} << 30) + 4096;
  std::string start = file("{" + entry("a", "U8", std::to_string(size), "0," + std::to_string(size)) + "}", 1);
  std::ofstream(path, std::ios::binary) << start;
  CHECK(::truncate(path.c_str(), static_cast<::off_t>(start.size() - 1 + size)) == 0);
  {
    const OpenFile open(path);
    CHECK_THROWS(pygrade::ArtifactError, "expected ≤ 2^30", open.content());
    const pygrade::FileContent content = open.large_content();
    CHECK(::truncate(path.c_str(), 0) == 0);  // the content stays
    CHECK_THROWS(pygrade::ArtifactError, "changed while it was read", open.large_content());
    std::filesystem::remove(path);
    CHECK(open.replaced() && content.owner() != nullptr);
    const auto tensors = read_safetensors(content);
    CHECK(tensors[0].bytes.size() == size && tensors[0].bytes[0] == std::byte{1});
    CHECK(tensors[0].bytes[size - 1] == std::byte{0});
    const std::span<const std::byte> all = content;
    CHECK(tensors[0].bytes.data() + size == all.data() + all.size());
  }
}

TEST(contents_share_their_bytes_and_their_hash) {
  const std::string text = "abc";
  const pygrade::FileContent borrowed = bytes(text), empty;
  const pygrade::FileContent owned(std::vector<std::byte>(bytes(text).begin(), bytes(text).end())), copy = owned;
  CHECK(borrowed.owner() == nullptr && owned.owner() != nullptr && copy.owner() == owned.owner());
  CHECK_EQUAL(borrowed.sha256(), Artifact::sha256(text));
  CHECK_EQUAL(&owned.sha256(), &copy.sha256());
  CHECK_EQUAL(owned.sha256(), Artifact::sha256(text));
  CHECK_EQUAL(empty.sha256(), Artifact::sha256(""));
}
