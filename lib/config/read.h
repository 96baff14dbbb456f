// Node to struct, with every mistake reported.
#pragma once

#include <string>

#include "config/node.h"
#include "config/report.h"
#include "config/schema.h"

namespace automodel::config {

// Reads `node` into the erased value at `value`, which holds its defaults. `path` is the dotted path of the node, for
// messages: empty for a whole file.
void read_into(const Type& type, const Node& node, void* value, Report& report, const std::string& path);

// Reads a described struct (or a variant, list, map of them). All mistakes go to the report: unknown keys, wrong types,
// ranges, missing keys, failed checks, and the defects that the file's reader left in the node. Values with a mistake
// keep their default, so the result is usable only when the report is empty.
template <class T>
T read(const Node& node, Report& report, const std::string& path = "") {
  T value{};
  read_into(type_of<T>(), node, &value, report, path);
  return value;
}

// The same for callers that want one exception: throws Error(kConfig) with every mistake.
template <class T>
T read_or_throw(const Node& node, const std::string& path = "") {
  Report report;
  T value = read<T>(node, report, path);
  report.throw_if_any();
  return value;
}

}  // namespace automodel::config
