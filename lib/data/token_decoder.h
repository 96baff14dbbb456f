// The "decoder" of a tokenizer.json: turns tokens back into text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/json_fields.h"

namespace automodel::data {

class TokenDecoder {
 public:
  // No decoder: tokens joined by one space each, as the reference implementation does.
  TokenDecoder() = default;
  // Supports Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip and Metaspace. Throws Error(kData) naming any
  // other type.
  explicit TokenDecoder(const JsonFields& json);

  // Valid UTF-8: bytes that form no character become U+FFFD.
  std::string decode(std::vector<std::string> tokens) const;

 private:
  using Step = std::function<std::vector<std::string>(std::vector<std::string>)>;
  void add(const JsonFields& json);

  std::vector<Step> steps_;
  bool given_ = false;
};

}  // namespace automodel::data
