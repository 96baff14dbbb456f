// A small deterministic fuzzer: random mutations of good recipes, through libFuzzer's entry point. It runs everywhere,
// in seconds; the real fuzzer finds more (AUTOMODEL_FUZZ).
#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <vector>

#include "config/sample.h"
#include "core/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

const std::vector<std::string>& seeds() {
  static const std::vector<std::string> texts{
      sample::kRecipe,
      "a: &a {b: [1, 2]}\nc: {<<: *a, d: *a}\n",
      "{\"a\": [1, 2.5, {\"b\": null}], \"c\": \"\\u00e9\"}",
      "optimizer: {_target_: torch.optim.Adam, lr: ${A}, x: \"$B\"}\n? |\n  key\n: >-\n  folded\n  text\n",
      "[q_proj, 'v', (1, 2), {'k': 1}, 0x1f, 1:30, ~]",
  };
  return texts;
}

// Some bytes replaced, removed, repeated or replaced by a character that means something in YAML.
std::string mutated(std::string text, const automodel::Random& random, uint64_t& at) {
  constexpr std::string_view kMeaning = ":-?[]{},#&*!|>'\"%@`$~<\n\t .0_e\\";
  const uint64_t edits = 1 + random.below(6, at++);
  for (uint64_t i = 0; i < edits && !text.empty(); ++i) {
    const size_t place = random.below(text.size(), at++);
    switch (random.below(5, at++)) {
      case 0:
        text[place] = static_cast<char>(random.below(256, at++));
        break;
      case 1:
        text[place] = kMeaning[random.below(kMeaning.size(), at++)];
        break;
      case 2:
        text.insert(place, 1, kMeaning[random.below(kMeaning.size(), at++)]);
        break;
      case 3:
        text.erase(place, 1 + random.below(8, at++));
        break;
      default: {
        const size_t from = random.below(text.size(), at++);
        text.insert(place, text.substr(from, 1 + random.below(30, at++)));
      } break;
    }
  }
  return text;
}

}  // namespace

TEST_CASE("thousands of damaged recipes give errors, never crashes or hangs") {
  const automodel::Random random(7, "config mutations");
  uint64_t at = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [](auto duration) { return std::chrono::duration<double>(duration).count(); };
  double slowest = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string text = mutated(seeds()[random.below(seeds().size(), at++)], random, at);
    CAPTURE(text);
    const auto begin = std::chrono::steady_clock::now();
    CHECK_NOTHROW(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    slowest = std::max(slowest, seconds(std::chrono::steady_clock::now() - begin));
  }
  CHECK(slowest < 5);  // a hang, whatever the machine is doing
  MESSAGE("4000 mutations in ", seconds(std::chrono::steady_clock::now() - start), " s");
}
