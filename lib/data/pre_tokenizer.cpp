// The chain runs depth first: a word goes through all steps before the next one is cut, so that a text of any length
// needs buffers of one word only.
#include "data/pre_tokenizer.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "data/normalizer.h"
#include "data/regex.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

using Piece = PreTokenizer::Piece;
using Sink = PreTokenizer::Sink;

// GPT-2's word pattern (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).
constexpr std::string_view kGpt2Words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Runs of word characters (UTS 18, annex C) or of what is neither those nor white space.
constexpr std::string_view kWordsOrSigns =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}\s]+)";

// What becomes of the delimiters (the matches) of a split.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior read_behavior(const JsonFields& json, std::string_view fallback) {
  std::string name = json.text_or("behavior", fallback);
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail(Fault::kData, "{}: the behavior '{}' is not supported", json.where(), name);
}

// Cuts at the matches of a pattern.
class Splitter : public PreTokenizer::Worker {
 public:
  Splitter(std::shared_ptr<const Regex> regex, Behavior behavior, bool invert)
      : regex_(std::move(regex)), matcher_(*regex_), behavior_(behavior), invert_(invert) {}

  void run(const Piece& piece, const Sink& next) override {
    auto hand_on = [&](size_t begin, size_t end) {
      next({piece.text.substr(begin, end - begin), piece.first && begin == 0});
    };
    if (behavior_ == Behavior::kIsolated) {
      for_each_piece(matcher_, piece.text, [&](size_t begin, size_t end, bool) { hand_on(begin, end); });
      return;
    }
    if (behavior_ == Behavior::kRemoved) {
      for_each_piece(matcher_, piece.text, [&](size_t begin, size_t end, bool is_match) {
        if (is_match == invert_) hand_on(begin, end);
      });
      return;
    }
    // A delimiter that joins a neighbour: a stretch is held back until it is known whether the next one joins it.
    size_t held = 0;
    bool previous = false;  // of the stretch before this one: was it a delimiter
    bool any = false;
    for_each_piece(matcher_, piece.text, [&](size_t begin, size_t, bool is_match) {
      bool delimiter = is_match != invert_;
      if (any && !joins(previous, delimiter)) {
        hand_on(held, begin);
        held = begin;
      }
      previous = delimiter;
      any = true;
    });
    if (any) hand_on(held, piece.text.size());
  }

 private:
  bool joins(bool previous, bool current) const {
    switch (behavior_) {
      case Behavior::kMergedWithPrevious:
        return current && !previous;
      case Behavior::kMergedWithNext:
        return previous && !current;
      default:
        return current == previous;
    }
  }

  std::shared_ptr<const Regex> regex_;
  Regex::Matcher matcher_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer::Worker {
 public:
  ByteLevel(std::shared_ptr<const Regex> words, bool add_prefix_space)
      : words_(std::move(words)), add_prefix_space_(add_prefix_space) {
    if (words_) matcher_.emplace(*words_);
  }

  void run(const Piece& piece, const Sink& next) override {
    std::string_view text = piece.text;
    if (add_prefix_space_ && !text.starts_with(' ')) {
      spaced_.clear();
      spaced_.push_back(' ');
      spaced_.append(text);
      text = spaced_;
    }
    if (!matcher_) {
      hand_on(text, piece.first, next);
      return;
    }
    for_each_piece(*matcher_, text, [&](size_t begin, size_t end, bool) {
      hand_on(text.substr(begin, end - begin), piece.first && begin == 0, next);
    });
  }

 private:
  void hand_on(std::string_view text, bool first, const Sink& next) {
    mapped_.clear();
    append_byte_level(mapped_, text);
    next({mapped_, first});
  }

  std::shared_ptr<const Regex> words_;
  std::optional<Regex::Matcher> matcher_;
  bool add_prefix_space_;
  std::string spaced_;
  std::string mapped_;
};

// Cuts between characters of two kinds: `Test` says which characters are delimiters.
template <bool (*Test)(char32_t)>
class CharacterSplitter : public PreTokenizer::Worker {
 public:
  explicit CharacterSplitter(Behavior behavior) : behavior_(behavior) {}

  void run(const Piece& piece, const Sink& next) override {
    std::string_view text = piece.text;
    size_t begin = 0;
    bool previous = false;
    auto hand_on = [&](size_t end) {
      if (end > begin && !(previous && behavior_ == Behavior::kRemoved))
        next({text.substr(begin, end - begin), piece.first && begin == 0});
      begin = end;
    };
    for (size_t pos = 0; pos < text.size(); pos += utf8_length(text[pos])) {
      bool delimiter = Test(code_point_at(text, pos));
      bool cut = delimiter != previous || (delimiter && behavior_ != Behavior::kContiguous);
      if (behavior_ == Behavior::kMergedWithPrevious) cut = previous;
      if (behavior_ == Behavior::kMergedWithNext) cut = delimiter;
      if (cut) hand_on(pos);
      previous = delimiter;
    }
    hand_on(text.size());
  }

 private:
  Behavior behavior_;
};

class Metaspace : public PreTokenizer::Worker {
 public:
  enum class Prepend { kAlways, kFirst, kNever };

  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  void run(const Piece& piece, const Sink& next) override {
    text_.clear();
    bool starts = piece.text.starts_with(' ') || piece.text.starts_with(replacement_);
    if (!starts && (prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.first))) text_ = replacement_;
    for (char c : piece.text) {
      if (c == ' ') {
        text_ += replacement_;
      } else {
        text_.push_back(c);
      }
    }
    if (!split_) {
      next({text_, piece.first});
      return;
    }
    std::string_view text = text_;
    for (size_t begin = 0; begin < text.size();) {
      size_t end = std::min(text.find(replacement_, begin + 1), text.size());
      next({text.substr(begin, end - begin), piece.first && begin == 0});
      begin = end;
    }
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
  std::string text_;
};

PreTokenizer::Step read_metaspace(const JsonFields& json) {
  std::string replacement = json.text_or("replacement", "\xE2\x96\x81");
  bool split = json.flag_or("split", true);
  std::string scheme = json.text_or("prepend_scheme", json.flag_or("add_prefix_space", true) ? "always" : "never");
  AM_CHECK(scheme == "always" || scheme == "first" || scheme == "never", Fault::kData,
           "{}: the prepend_scheme '{}' is not supported", json.where(), scheme);
  auto prepend = scheme == "always"  ? Metaspace::Prepend::kAlways
                 : scheme == "first" ? Metaspace::Prepend::kFirst
                                     : Metaspace::Prepend::kNever;
  return [=] { return std::make_unique<Metaspace>(replacement, prepend, split); };
}

void run_from(const std::vector<std::unique_ptr<PreTokenizer::Worker>>& workers, size_t step, const Piece& piece,
              const Sink& sink) {
  if (piece.text.empty()) return;
  if (step == workers.size()) {
    sink(piece);
  } else if (step + 1 == workers.size()) {
    workers[step]->run(piece, sink);
  } else {
    workers[step]->run(piece, [&](const Piece& next) { run_from(workers, step + 1, next, sink); });
  }
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonFields& json) {
  add(json);
}

void PreTokenizer::add(const JsonFields& json) {
  std::string type = json.text("type");
  if (type == "Sequence") {
    auto list = json.at("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) add(list[i]);
  } else if (type == "ByteLevel") {
    bool prefix = json.flag_or("add_prefix_space", true);
    std::shared_ptr<const Regex> words;
    if (json.flag_or("use_regex", true)) words = std::make_shared<Regex>(kGpt2Words, json.where());
    steps_.push_back([=] { return std::make_unique<ByteLevel>(words, prefix); });
  } else if (type == "Split") {
    auto regex = std::make_shared<const Regex>(read_pattern(json));
    Behavior behavior = read_behavior(json, "Isolated");
    bool invert = json.flag_or("invert", false);
    steps_.push_back([=] { return std::make_unique<Splitter>(regex, behavior, invert); });
  } else if (type == "Whitespace") {
    auto regex = std::make_shared<const Regex>(kWordsOrSigns, json.where());
    steps_.push_back([=] { return std::make_unique<Splitter>(regex, Behavior::kRemoved, true); });
  } else if (type == "WhitespaceSplit") {
    steps_.push_back([] { return std::make_unique<CharacterSplitter<is_white_space>>(Behavior::kRemoved); });
  } else if (type == "Digits") {
    Behavior behavior = json.flag_or("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous;
    steps_.push_back([=] { return std::make_unique<CharacterSplitter<is_numeric>>(behavior); });
  } else if (type == "Punctuation") {
    Behavior behavior = read_behavior(json, "Isolated");
    steps_.push_back([=] { return std::make_unique<CharacterSplitter<is_punctuation>>(behavior); });
  } else if (type == "Metaspace") {
    steps_.push_back(read_metaspace(json));
  } else {
    fail(Fault::kData, "{}: the pre-tokenizer type '{}' is not supported", json.where(), type);
  }
}

std::vector<std::unique_ptr<PreTokenizer::Worker>> PreTokenizer::make_workers() const {
  std::vector<std::unique_ptr<Worker>> workers;
  for (const auto& step : steps_) workers.push_back(step());
  return workers;
}

void PreTokenizer::run(const std::vector<std::unique_ptr<Worker>>& workers, const Piece& piece, const Sink& sink) {
  run_from(workers, 0, piece, sink);
}

}  // namespace automodel::data
