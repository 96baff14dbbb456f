// Token streams of texts, kept on disk so that a text is tokenized once and not by every rank of every run. Where the
// files lie and what is in them: TOKEN_CACHE.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/tokenizer.h"

namespace automodel::data {

// Token ids one after the other, in memory or mapped from a file of the cache. May be read by several threads at once.
class TokenStream {
 public:
  explicit TokenStream(std::vector<int32_t> ids);
  // The file of a cache entry, from byte `offset` on: `width` bytes (2 or 4) a token.
  TokenStream(MappedFile file, size_t offset, int width, int64_t size, int32_t largest);

  int64_t size() const { return size_; }
  int32_t largest() const { return largest_; }  // id; -1 when there is none
  std::vector<int32_t> part(int64_t begin, int64_t count) const;
  bool mapped() const { return file_.has_value(); }

 private:
  std::vector<int32_t> ids_;
  std::optional<MappedFile> file_;
  size_t offset_ = 0;
  int width_ = 4;
  int64_t size_ = 0;
  int32_t largest_ = -1;
};

struct TokenCache {
  fs::path folder;                        // empty: nothing is kept
  int64_t smallest = int64_t{256} << 10;  // bytes of text below which nothing is kept
};

// The user's cache; nothing is kept where neither XDG_CACHE_HOME nor HOME is set.
TokenCache default_token_cache();

struct TokenizedText {
  TokenStream tokens;
  std::string note;  // for the log: where the tokens are kept, or why they are not; empty for a small text
};

// The files encoded one after the other, each with the tokens its tokenizer puts around a text. Processes that ask for
// the same text at the same time wait for the first of them. A cache that cannot be read or written is no error.
// Throws Error(kData) naming the file when one is empty or not what the tokenizer takes.
TokenizedText tokenize(const std::vector<std::string>& files, const Tokenizer& tokenizer, const TokenCache& cache);

}  // namespace automodel::data
