#include "checkpoint/safetensors.h"

#include "support.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

namespace {

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& range) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, range);
}

std::string object(const std::string& entries) {
  return fmt::format("{{{}}}", entries);
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "w.safetensors");
}

// The message with which a file is refused.
std::string refusal(const std::string& file) {
  Error error = error_of([&] { parse(file); });
  CHECK(error.fault() == Fault::kCheckpoint);
  CHECK(contains(error.what(), "w.safetensors"));
  return error.what();
}

}  // namespace

TEST_CASE("a planned file reads back with names, types, shapes, bytes and metadata") {
  TempDir dir;
  auto layout = plan_file(
      {{"b", DType::kBF16, {3}}, {"é\"\\", DType::kF32, {2, 1}}, {"s", DType::kI64, {}}, {"z", DType::kU8, {0, 5}}},
      {{"format", "pt"}});
  write_file(dir / "m.safetensors", layout, {{"b", "abcdef"}, {"é\"\\", "01234567"}, {"s", "ABCDEFGH"}, {"z", ""}});
  SafetensorsFile file(dir / "m.safetensors");
  CHECK(file.tensors().size() == 4);
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.find("b")->dtype == DType::kBF16);
  CHECK(file.find("é\"\\")->shape == std::vector<int64_t>{2, 1});
  CHECK(file.find("s")->shape.empty());
  auto bytes = file.bytes("b");
  CHECK(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == "abcdef");
  CHECK(file.bytes("z").empty());
  CHECK(error_of([&] { file.bytes("q"); }).fault() == Fault::kCheckpoint);
}

TEST_CASE("every tensor of a planned file is aligned to its element size, and the plan ignores the order given") {
  auto a = plan_file({{"h", DType::kU8, {3}}, {"f", DType::kF64, {5}}, {"g", DType::kF16, {7}}}, {});
  auto b = plan_file({{"g", DType::kF16, {7}}, {"h", DType::kU8, {3}}, {"f", DType::kF64, {5}}}, {});
  CHECK(a.header == b.header);
  CHECK(a.header.size() % 8 == 0);
  for (const auto& tensor : a.tensors.all()) CHECK(tensor.begin % size_of(tensor.dtype) == 0);
  CHECK(error_of([] { plan_file({{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}, {}); }).fault() == Fault::kBug);
  CHECK(error_of([] { plan_file({{"a", DType::kF32, {-1}}}, {}); }).fault() == Fault::kBug);
  CHECK(error_of([] { plan_file({{"a", DType::kF32, {INT64_MAX, 4}}}, {}); }).fault() == Fault::kBug);
}

TEST_CASE("truncated files are refused, wherever they end") {
  std::string good = raw_file(object(entry("a", "F32", "[2]", "[0,8]")), "01234567");
  CHECK(parse(good).tensors.all().size() == 1);
  for (size_t size = 0; size < good.size(); ++size) refusal(good.substr(0, size));
  CHECK(contains(refusal(good.substr(0, good.size() - 1)), "truncated"));
  CHECK(contains(refusal(good + "x"), "1 bytes belong to no tensor"));
  CHECK(contains(refusal(""), "too few"));
}

TEST_CASE("header lengths that cannot be are refused") {
  CHECK(contains(refusal(raw_file("{}", "", UINT64_MAX)), "exceeds the limit"));
  CHECK(contains(refusal(raw_file("{}", "", UINT64_MAX - 7)), "exceeds the limit"));
  CHECK(contains(refusal(raw_file("{}", "", 3)), "truncated"));
  CHECK(contains(refusal(raw_file("", "", 0)), "does not start"));
  CHECK(contains(refusal(raw_file("[]", "")), "does not start"));
  CHECK(contains(refusal(raw_file("{\"a\":", "")), "not valid JSON"));
  CHECK(contains(refusal(raw_file("{\"a\xff\":1}", "")), "not valid JSON"));
  CHECK(parse(raw_file("{}   ", "")).tensors.all().empty());
}

TEST_CASE("tensor entries that lie are refused with the tensor's name") {
  auto one = [](const std::string& dtype, const std::string& shape, const std::string& range, const std::string& data) {
    std::string message = refusal(raw_file(object(entry("wte.weight", dtype, shape, range)), data));
    CHECK(contains(message, "wte.weight"));
    return message;
  };
  CHECK(contains(one("F32", "[2]", "[0,4]", "0123"), "takes 8 bytes"));
  CHECK(contains(one("F32", "[2]", "[8,0]", "01234567"), "no byte range"));
  CHECK(contains(one("F32", "[2]", "[0,8,16]", "01234567"), "two data_offsets"));
  CHECK(contains(one("F32", "[2]", "[0,18446744073709551615]", "01234567"), "no byte range"));
  CHECK(contains(one("F32", "[2]", "[-8,0]", "01234567"), "no byte range"));
  CHECK(contains(one("F32", "[2]", "[0,1e1]", "01234567"), "no byte range"));
  CHECK(contains(one("F32", "[4611686018427387905]", "[0,4]", "0123"), "impossibly large"));
  CHECK(contains(one("F32", "[4294967296,4294967296]", "[0,0]", ""), "impossibly large"));
  CHECK(contains(one("F32", "[-2]", "[0,8]", "01234567"), "no extent"));
  CHECK(contains(one("F32", "[2.0]", "[0,8]", "01234567"), "no extent"));
  CHECK(contains(one("F32", "\"2\"", "[0,8]", "01234567"), "needs a dtype"));
  CHECK(contains(one("F8_E4M3", "[8]", "[0,8]", "01234567"), "F8_E4M3"));
  CHECK(contains(one("Q7", "[8]", "[0,8]", "01234567"), "Q7"));
  CHECK(contains(refusal(raw_file("{\"a\":7}", "")), "no object"));
  CHECK(contains(refusal(raw_file("{\"a\":{}}", "")), "needs a dtype"));
}

TEST_CASE("overlaps, gaps and repeated names are refused") {
  auto two = [](const std::string& a, const std::string& b, const std::string& data) {
    return refusal(raw_file(object(fmt::format("{},{}", a, b)), data));
  };
  CHECK(contains(two(entry("a", "U8", "[8]", "[0,8]"), entry("b", "U8", "[8]", "[4,12]"), "0123456789ab"), "overlaps"));
  CHECK(contains(two(entry("a", "U8", "[8]", "[0,8]"), entry("b", "U8", "[8]", "[0,8]"), "01234567"), "overlaps"));
  CHECK(contains(two(entry("a", "U8", "[4]", "[0,4]"), entry("b", "U8", "[4]", "[5,9]"), "012345678"), "belong to no"));
  CHECK(contains(two(entry("a", "U8", "[4]", "[0,4]"), entry("a", "U8", "[4]", "[4,8]"), "01234567"), "twice"));
  CHECK(contains(
      refusal(raw_file("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "")),
      "twice"));
  CHECK(contains(refusal(raw_file("{\"__metadata__\":{\"a\":1}}", "")), "no string"));
  CHECK(contains(refusal(raw_file("{\"__metadata__\":[]}", "")), "no object"));
  CHECK(contains(refusal(raw_file(object(fmt::format("\"a\":{}", std::string(200000, '['))), "")), "nested"));
}
