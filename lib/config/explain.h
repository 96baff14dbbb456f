// The reference of the keys, made from the descriptions.
#pragma once

#include <string>
#include <string_view>

#include "config/schema.h"

namespace automodel::config {

// What a key is: type, default, range, meaning, and the targets that have it. A section lists its keys; "" is the whole
// file. Throws Error(kUsage) with the nearest known keys when there is no such key.
std::string explain(const Type& type, std::string_view path);

template <class T>
std::string explain(std::string_view path) {
  return explain(type_of<T>(), path);
}

// "a number above 0", "one of: fsdp2 | ddp", "a list of text or null": what may be written.
std::string describe_type(const Type& type, const FieldSpec* field = nullptr);

}  // namespace automodel::config
