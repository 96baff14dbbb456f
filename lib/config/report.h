// All mistakes of a configuration, collected and shown at once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/node.h"

namespace automodel::config {

class Report {
 public:
  void add(Problem problem) { problems_.push_back(std::move(problem)); }
  // A remark that does not stop the program: an accepted key that has no effect, say.
  void note(Problem remark) { notes_.push_back(std::move(remark)); }

  bool empty() const { return problems_.empty(); }
  const std::vector<Problem>& problems() const { return problems_; }
  const std::vector<Problem>& notes() const { return notes_; }

  // Every problem in the order of the file, overrides last:
  //   recipes/demo.yaml:2:13: distributed.strategy: expected one of: fsdp2 | ddp; got 'fsdp'
  //         strategy: fsdp
  //                   ^
  //       hint: did you mean 'fsdp2'?
  std::string text() const;
  // [{"key": ..., "message": ..., "hint": ..., "source": "recipes/demo.yaml:2:13"}, ...] in the same order.
  std::string json() const;
  // Throws Error(kConfig) with text() unless there is no problem.
  void throw_if_any() const;

 private:
  std::vector<Problem> problems_;
  std::vector<Problem> notes_;
};

// One problem as Report::text prints it, without a final newline.
std::string format_problem(const Problem& problem);

// What a cross-field check reports with. `key` is a key of the checked struct ("global_batch_size", or a path below
// it); the problem is shown where that key was written, or at the section when it was left out.
class Problems {
 public:
  Problems(Report& report, const Node& section, std::string path) : report_(report), section_(section), path_(path) {}
  void add(std::string_view key, std::string message, std::string hint = "");

 private:
  Report& report_;
  const Node& section_;
  std::string path_;
};

}  // namespace automodel::config
