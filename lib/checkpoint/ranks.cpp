#include "checkpoint/ranks.h"

#include "core/error.h"

namespace automodel::checkpoint {

// An error travels as text: one character for the fault, then the message.
void together(const Ranks& ranks, const std::function<void()>& action) {
  constexpr char kFirstFault = 'A';
  std::string mine;
  auto encode = [&](Fault fault, const char* message) {
    mine = static_cast<char>(kFirstFault + static_cast<int>(fault));
    if (ranks.size > 1) mine += fmt::format("rank {}: ", ranks.rank);
    mine += message;
  };
  try {
    action();
  } catch (const Error& error) {
    encode(error.fault(), error.what());
  } catch (const std::exception& error) {
    encode(Fault::kBug, error.what());
  }
  std::string first = ranks.first_text(mine);
  if (!first.empty()) throw Error(static_cast<Fault>(first.front() - kFirstFault), first.substr(1));
}

}  // namespace automodel::checkpoint
