// The fuzz target driven by seeded mutations of good files, so that every test run fuzzes a little.
#include "core/rng.h"
#include "support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

using namespace automodel;
using namespace automodel::checkpoint::test;

namespace {

// One to four edits: a byte changed, inserted or removed, a cut, a digit made large, a part repeated.
std::string mutate(std::string text, const Random& random, uint64_t& draw) {
  auto below = [&](uint64_t bound) { return static_cast<size_t>(random.below(bound == 0 ? 1 : bound, draw++)); };
  static const std::string kLoaded = "0123456789-+.eE[]{}\",:\\ \0\xff";
  for (size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
    size_t at = below(text.size());
    switch (below(6)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text[at] = kLoaded[below(kLoaded.size())];
        break;
      case 2:
        text.insert(at, 1, kLoaded[below(kLoaded.size())]);
        break;
      case 3:
        text.erase(at, 1 + below(8));
        break;
      case 4:
        text.insert(at, text.substr(below(text.size()), below(64)));
        break;
      default:
        text.insert(at, "9223372036854775807");
        break;
    }
  }
  return text;
}

}  // namespace

TEST_CASE("mutated safetensors files are refused or read safely, never anything else") {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"I64","shape":[],"data_offsets":[32,40]}})";
  const std::string data(40, 'x');
  Random random(20240601, "mutations");
  uint64_t draw = 0;
  int refused = 0, read = 0;
  for (int i = 0; i < 60000; ++i) {
    // Two of three keep the length true, so that the mutation reaches the checks behind it.
    std::string file =
        i % 3 == 0 ? mutate(raw_file(header, data), random, draw) : raw_file(mutate(header, random, draw), data);
    int result = LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(file.data()), file.size());
    (result < 0 ? refused : read) += 1;
  }
  // Mutations of data bytes and of names leave a good file.
  CHECK(refused > 30000);
  CHECK(read > 500);
}
