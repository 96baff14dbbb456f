// The ranks that save together, as two collectives. The room needs no communicator: whoever has one fills these in.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace automodel::checkpoint {

struct Ranks {
  int rank = 0;
  int size = 1;
  // Every rank passes a text; all of them get the text of the lowest rank whose text is not empty ("" when none is).
  std::function<std::string(const std::string&)> first_text = [](const std::string& text) { return text; };
  // Every rank passes a number; all of them get the sum.
  std::function<uint64_t(uint64_t)> sum = [](uint64_t number) { return number; };
};

// Runs `action` on every rank and waits for all of them. When it throws anywhere, every rank throws the Error of the
// lowest rank that failed, so that nobody waits for a rank that has left.
void together(const Ranks& ranks, const std::function<void()>& action);

}  // namespace automodel::checkpoint
