// Reads sections and builds set-ups for the tests of this room.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"
#include "distributed/distributed_section.h"
#include "distributed/setup_json.h"

namespace automodel::distributed::testing {

struct Read {
  config::Node node;
  config::Report report;
  SectionRemarks remarks;
  DistributedSection section;
};

// A section as a recipe has it: "{tp_size: 2}".
inline Read read(const std::string& yaml, bool keep_unchecked = false) {
  Read result;
  result.remarks.keep_unchecked = keep_unchecked;
  result.node = config::parse_yaml("distributed: " + yaml, "r.yaml");
  config::Node& section = *result.node.find("distributed");
  prepare_section(section, result.report, result.remarks);
  result.section = config::read<DistributedSection>(section, result.report, "distributed");
  return result;
}

// The section resolved on a number of ranks; the report says what went wrong.
struct Resolved : Read {
  std::optional<DistributedSetup> setup;
};
inline Resolved resolve(const std::string& yaml, int64_t world) {
  Resolved result{read(yaml), std::nullopt};
  if (!result.report.empty()) return result;
  config::Problems problems(result.report, *result.node.find("distributed"), "distributed");
  result.setup = resolve_section(result.section, {world}, problems, result.remarks.warnings);
  return result;
}

// A section that must resolve.
inline DistributedSetup setup(const std::string& yaml, int64_t world) {
  CAPTURE(yaml);
  Resolved result = resolve(yaml, world);
  REQUIRE_MESSAGE(result.setup.has_value(), result.report.text());
  return *result.setup;
}

// The report of a section with exactly `count` mistakes.
inline std::string problems(const std::string& yaml, int64_t world = 8, size_t count = 1) {
  const Resolved result = resolve(yaml, world);
  CAPTURE(yaml);
  REQUIRE_MESSAGE(result.report.problems().size() == count, result.report.text());
  return result.report.text();
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What DistributedSetup::build complains about; "" when it does not.
inline std::string build_error(const SetupRequest& request) {
  try {
    DistributedSetup::build(request);
  } catch (const Error& error) {
    CHECK(error.fault() == Fault::kConfig);
    return error.what();
  }
  return "";
}

}  // namespace automodel::distributed::testing
