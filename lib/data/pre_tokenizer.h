// The "pre_tokenizer" of a tokenizer.json: cuts a normalized text into the words that the model encodes one by one.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "data/json_fields.h"

namespace automodel::data {

class PreTokenizer {
 public:
  // A piece of text. `first`: it begins where the whole text begins.
  struct Piece {
    std::string_view text;
    bool first;
  };
  using Sink = std::function<void(const Piece&)>;

  // One step of the chain. Holds buffers while it works, hence one chain of workers per thread.
  class Worker {
   public:
    virtual ~Worker() = default;
    // Cuts or rewrites a piece and hands each result to `next`.
    virtual void run(const Piece& piece, const Sink& next) = 0;
  };
  using Step = std::function<std::unique_ptr<Worker>()>;

  // No pre-tokenizer: the whole text is one word.
  PreTokenizer() = default;
  // Supports Sequence, ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit and Punctuation. Throws
  // Error(kData) naming any other type.
  explicit PreTokenizer(const JsonFields& json);

  std::vector<std::unique_ptr<Worker>> make_workers() const;

  // Runs the chain on one piece; `sink` gets the words, never an empty one, in order.
  static void run(const std::vector<std::unique_ptr<Worker>>& workers, const Piece& piece, const Sink& sink);

 private:
  void add(const JsonFields& json);

  std::vector<Step> steps_;
};

}  // namespace automodel::data
